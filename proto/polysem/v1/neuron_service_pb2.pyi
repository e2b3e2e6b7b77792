from polysem.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Algorithm(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ALGORITHM_UNSPECIFIED: _ClassVar[Algorithm]
    ALGORITHM_HAC: _ClassVar[Algorithm]
    ALGORITHM_SCC: _ClassVar[Algorithm]
    ALGORITHM_COMPONENTS: _ClassVar[Algorithm]

class Linkage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LINKAGE_UNSPECIFIED: _ClassVar[Linkage]
    LINKAGE_AVERAGE: _ClassVar[Linkage]
    LINKAGE_COMPLETE: _ClassVar[Linkage]
    LINKAGE_SINGLE: _ClassVar[Linkage]

class Embedding(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EMBEDDING_UNSPECIFIED: _ClassVar[Embedding]
    EMBEDDING_NEURON: _ClassVar[Embedding]
    EMBEDDING_PRE_MLP: _ClassVar[Embedding]
    EMBEDDING_GATE: _ClassVar[Embedding]
    EMBEDDING_UP: _ClassVar[Embedding]
    EMBEDDING_PERMUTED: _ClassVar[Embedding]
    EMBEDDING_OTHER: _ClassVar[Embedding]

class Side(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SIDE_UNSPECIFIED: _ClassVar[Side]
    SIDE_POSITIVE: _ClassVar[Side]
    SIDE_NEGATIVE: _ClassVar[Side]

class LayerNorm(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LAYER_NORM_UNSPECIFIED: _ClassVar[LayerNorm]
    LAYER_NORM_FOLDED: _ClassVar[LayerNorm]
    LAYER_NORM_RAW: _ClassVar[LayerNorm]

class Frame(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FRAME_UNSPECIFIED: _ClassVar[Frame]
    FRAME_RAW: _ClassVar[Frame]
    FRAME_CENTRED: _ClassVar[Frame]
    FRAME_STANDARDISED: _ClassVar[Frame]
    FRAME_OWN: _ClassVar[Frame]

class ThresholdSchedule(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    THRESHOLD_SCHEDULE_UNSPECIFIED: _ClassVar[ThresholdSchedule]
    THRESHOLD_SCHEDULE_LINEAR: _ClassVar[ThresholdSchedule]
    THRESHOLD_SCHEDULE_GEOMETRIC: _ClassVar[ThresholdSchedule]

class Method(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    METHOD_UNSPECIFIED: _ClassVar[Method]
    METHOD_MATRIX: _ClassVar[Method]
    METHOD_LINEAR: _ClassVar[Method]
    METHOD_NEIGHBOURS: _ClassVar[Method]
    METHOD_NEIGHBOUR_TREE: _ClassVar[Method]

class Library(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LIBRARY_UNSPECIFIED: _ClassVar[Library]
    LIBRARY_POLYSEM: _ClassVar[Library]
    LIBRARY_CUML: _ClassVar[Library]
    LIBRARY_SCIKIT_LEARN: _ClassVar[Library]
    LIBRARY_TORCH: _ClassVar[Library]

class NeuronMetric(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NEURON_METRIC_UNSPECIFIED: _ClassVar[NeuronMetric]
    NEURON_METRIC_N_EXAMPLES: _ClassVar[NeuronMetric]
    NEURON_METRIC_N_CLUSTERS: _ClassVar[NeuronMetric]
    NEURON_METRIC_MAX_DISTANCE: _ClassVar[NeuronMetric]
    NEURON_METRIC_MEAN_DISTANCE: _ClassVar[NeuronMetric]
    NEURON_METRIC_INTRA: _ClassVar[NeuronMetric]
    NEURON_METRIC_INTER: _ClassVar[NeuronMetric]
    NEURON_METRIC_SILHOUETTE: _ClassVar[NeuronMetric]
    NEURON_METRIC_LARGEST_SHARE: _ClassVar[NeuronMetric]
    NEURON_METRIC_SECOND_SHARE: _ClassVar[NeuronMetric]
    NEURON_METRIC_MAXIMUM_ACTIVATION: _ClassVar[NeuronMetric]
    NEURON_METRIC_MEAN_ACTIVATION: _ClassVar[NeuronMetric]
    NEURON_METRIC_SHARE_POSITIVE: _ClassVar[NeuronMetric]
    NEURON_METRIC_BEST_SILHOUETTE: _ClassVar[NeuronMetric]
    NEURON_METRIC_P_VALUE: _ClassVar[NeuronMetric]
    NEURON_METRIC_NULL_SILHOUETTE: _ClassVar[NeuronMetric]
    NEURON_METRIC_EXCESS_SILHOUETTE: _ClassVar[NeuronMetric]
    NEURON_METRIC_Q_VALUE: _ClassVar[NeuronMetric]
    NEURON_METRIC_SIGNIFICANT_CLUSTERS: _ClassVar[NeuronMetric]
    NEURON_METRIC_STABILITY: _ClassVar[NeuronMetric]
    NEURON_METRIC_PREDICTION_STRENGTH: _ClassVar[NeuronMetric]

class NeuronKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NEURON_KIND_UNSPECIFIED: _ClassVar[NeuronKind]
    NEURON_KIND_TOO_FEW: _ClassVar[NeuronKind]
    NEURON_KIND_ONE: _ClassVar[NeuronKind]
    NEURON_KIND_FEW: _ClassVar[NeuronKind]
    NEURON_KIND_BLURRED: _ClassVar[NeuronKind]
    NEURON_KIND_SEVERAL: _ClassVar[NeuronKind]

class LabelMethod(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LABEL_METHOD_UNSPECIFIED: _ClassVar[LabelMethod]
    LABEL_METHOD_RULE: _ClassVar[LabelMethod]
    LABEL_METHOD_PERSON: _ClassVar[LabelMethod]
    LABEL_METHOD_MODEL: _ClassVar[LabelMethod]

class Similarity(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SIMILARITY_UNSPECIFIED: _ClassVar[Similarity]
    SIMILARITY_PRE_MLP: _ClassVar[Similarity]
    SIMILARITY_NEURON: _ClassVar[Similarity]

class Ablation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ABLATION_UNSPECIFIED: _ClassVar[Ablation]
    ABLATION_ZERO: _ClassVar[Ablation]
    ABLATION_MEAN: _ClassVar[Ablation]

class Ablated(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ABLATED_UNSPECIFIED: _ClassVar[Ablated]
    ABLATED_CLUSTER: _ClassVar[Ablated]
    ABLATED_NEURON: _ClassVar[Ablated]
    ABLATED_OTHER: _ClassVar[Ablated]
    ABLATED_CONTROL: _ClassVar[Ablated]

class FoundBy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FOUND_BY_UNSPECIFIED: _ClassVar[FoundBy]
    FOUND_BY_KEY: _ClassVar[FoundBy]
    FOUND_BY_NAME: _ClassVar[FoundBy]
    FOUND_BY_TEXT: _ClassVar[FoundBy]
ALGORITHM_UNSPECIFIED: Algorithm
ALGORITHM_HAC: Algorithm
ALGORITHM_SCC: Algorithm
ALGORITHM_COMPONENTS: Algorithm
LINKAGE_UNSPECIFIED: Linkage
LINKAGE_AVERAGE: Linkage
LINKAGE_COMPLETE: Linkage
LINKAGE_SINGLE: Linkage
EMBEDDING_UNSPECIFIED: Embedding
EMBEDDING_NEURON: Embedding
EMBEDDING_PRE_MLP: Embedding
EMBEDDING_GATE: Embedding
EMBEDDING_UP: Embedding
EMBEDDING_PERMUTED: Embedding
EMBEDDING_OTHER: Embedding
SIDE_UNSPECIFIED: Side
SIDE_POSITIVE: Side
SIDE_NEGATIVE: Side
LAYER_NORM_UNSPECIFIED: LayerNorm
LAYER_NORM_FOLDED: LayerNorm
LAYER_NORM_RAW: LayerNorm
FRAME_UNSPECIFIED: Frame
FRAME_RAW: Frame
FRAME_CENTRED: Frame
FRAME_STANDARDISED: Frame
FRAME_OWN: Frame
THRESHOLD_SCHEDULE_UNSPECIFIED: ThresholdSchedule
THRESHOLD_SCHEDULE_LINEAR: ThresholdSchedule
THRESHOLD_SCHEDULE_GEOMETRIC: ThresholdSchedule
METHOD_UNSPECIFIED: Method
METHOD_MATRIX: Method
METHOD_LINEAR: Method
METHOD_NEIGHBOURS: Method
METHOD_NEIGHBOUR_TREE: Method
LIBRARY_UNSPECIFIED: Library
LIBRARY_POLYSEM: Library
LIBRARY_CUML: Library
LIBRARY_SCIKIT_LEARN: Library
LIBRARY_TORCH: Library
NEURON_METRIC_UNSPECIFIED: NeuronMetric
NEURON_METRIC_N_EXAMPLES: NeuronMetric
NEURON_METRIC_N_CLUSTERS: NeuronMetric
NEURON_METRIC_MAX_DISTANCE: NeuronMetric
NEURON_METRIC_MEAN_DISTANCE: NeuronMetric
NEURON_METRIC_INTRA: NeuronMetric
NEURON_METRIC_INTER: NeuronMetric
NEURON_METRIC_SILHOUETTE: NeuronMetric
NEURON_METRIC_LARGEST_SHARE: NeuronMetric
NEURON_METRIC_SECOND_SHARE: NeuronMetric
NEURON_METRIC_MAXIMUM_ACTIVATION: NeuronMetric
NEURON_METRIC_MEAN_ACTIVATION: NeuronMetric
NEURON_METRIC_SHARE_POSITIVE: NeuronMetric
NEURON_METRIC_BEST_SILHOUETTE: NeuronMetric
NEURON_METRIC_P_VALUE: NeuronMetric
NEURON_METRIC_NULL_SILHOUETTE: NeuronMetric
NEURON_METRIC_EXCESS_SILHOUETTE: NeuronMetric
NEURON_METRIC_Q_VALUE: NeuronMetric
NEURON_METRIC_SIGNIFICANT_CLUSTERS: NeuronMetric
NEURON_METRIC_STABILITY: NeuronMetric
NEURON_METRIC_PREDICTION_STRENGTH: NeuronMetric
NEURON_KIND_UNSPECIFIED: NeuronKind
NEURON_KIND_TOO_FEW: NeuronKind
NEURON_KIND_ONE: NeuronKind
NEURON_KIND_FEW: NeuronKind
NEURON_KIND_BLURRED: NeuronKind
NEURON_KIND_SEVERAL: NeuronKind
LABEL_METHOD_UNSPECIFIED: LabelMethod
LABEL_METHOD_RULE: LabelMethod
LABEL_METHOD_PERSON: LabelMethod
LABEL_METHOD_MODEL: LabelMethod
SIMILARITY_UNSPECIFIED: Similarity
SIMILARITY_PRE_MLP: Similarity
SIMILARITY_NEURON: Similarity
ABLATION_UNSPECIFIED: Ablation
ABLATION_ZERO: Ablation
ABLATION_MEAN: Ablation
ABLATED_UNSPECIFIED: Ablated
ABLATED_CLUSTER: Ablated
ABLATED_NEURON: Ablated
ABLATED_OTHER: Ablated
ABLATED_CONTROL: Ablated
FOUND_BY_UNSPECIFIED: FoundBy
FOUND_BY_KEY: FoundBy
FOUND_BY_NAME: FoundBy
FOUND_BY_TEXT: FoundBy

class NeuronRange(_message.Message):
    __slots__ = ("layer", "first", "last")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    layer: int
    first: int
    last: int
    def __init__(self, layer: _Optional[int] = ..., first: _Optional[int] = ..., last: _Optional[int] = ...) -> None: ...

class Clustering(_message.Message):
    __slots__ = ("algorithm", "linkage", "embedding", "layer_norm", "distance_threshold", "thresholds", "threshold_schedule", "until_stable", "neighbours", "frame")
    ALGORITHM_FIELD_NUMBER: _ClassVar[int]
    LINKAGE_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    LAYER_NORM_FIELD_NUMBER: _ClassVar[int]
    DISTANCE_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    THRESHOLDS_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    UNTIL_STABLE_FIELD_NUMBER: _ClassVar[int]
    NEIGHBOURS_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    algorithm: Algorithm
    linkage: Linkage
    embedding: Embedding
    layer_norm: LayerNorm
    distance_threshold: float
    thresholds: _containers.RepeatedScalarFieldContainer[float]
    threshold_schedule: ThresholdSchedule
    until_stable: bool
    neighbours: int
    frame: Frame
    def __init__(self, algorithm: _Optional[_Union[Algorithm, str]] = ..., linkage: _Optional[_Union[Linkage, str]] = ..., embedding: _Optional[_Union[Embedding, str]] = ..., layer_norm: _Optional[_Union[LayerNorm, str]] = ..., distance_threshold: _Optional[float] = ..., thresholds: _Optional[_Iterable[float]] = ..., threshold_schedule: _Optional[_Union[ThresholdSchedule, str]] = ..., until_stable: bool = ..., neighbours: _Optional[int] = ..., frame: _Optional[_Union[Frame, str]] = ...) -> None: ...

class GetServerInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListIndexesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ClusterNeuronsRequest(_message.Message):
    __slots__ = ("index", "neurons", "algorithm", "linkage", "embedding", "layer_norm", "distance_threshold", "thresholds", "threshold_schedule", "until_stable", "silhouette_thresholds", "neighbours", "side", "frame", "n_null", "neuron_only", "seed", "cut_silhouettes")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    NEURONS_FIELD_NUMBER: _ClassVar[int]
    ALGORITHM_FIELD_NUMBER: _ClassVar[int]
    LINKAGE_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    LAYER_NORM_FIELD_NUMBER: _ClassVar[int]
    DISTANCE_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    THRESHOLDS_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    UNTIL_STABLE_FIELD_NUMBER: _ClassVar[int]
    SILHOUETTE_THRESHOLDS_FIELD_NUMBER: _ClassVar[int]
    NEIGHBOURS_FIELD_NUMBER: _ClassVar[int]
    SIDE_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    N_NULL_FIELD_NUMBER: _ClassVar[int]
    NEURON_ONLY_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    CUT_SILHOUETTES_FIELD_NUMBER: _ClassVar[int]
    index: str
    neurons: _containers.RepeatedCompositeFieldContainer[NeuronRange]
    algorithm: Algorithm
    linkage: Linkage
    embedding: Embedding
    layer_norm: LayerNorm
    distance_threshold: float
    thresholds: _containers.RepeatedScalarFieldContainer[float]
    threshold_schedule: ThresholdSchedule
    until_stable: bool
    silhouette_thresholds: _containers.RepeatedScalarFieldContainer[float]
    neighbours: int
    side: Side
    frame: Frame
    n_null: int
    neuron_only: bool
    seed: int
    cut_silhouettes: bool
    def __init__(self, index: _Optional[str] = ..., neurons: _Optional[_Iterable[_Union[NeuronRange, _Mapping]]] = ..., algorithm: _Optional[_Union[Algorithm, str]] = ..., linkage: _Optional[_Union[Linkage, str]] = ..., embedding: _Optional[_Union[Embedding, str]] = ..., layer_norm: _Optional[_Union[LayerNorm, str]] = ..., distance_threshold: _Optional[float] = ..., thresholds: _Optional[_Iterable[float]] = ..., threshold_schedule: _Optional[_Union[ThresholdSchedule, str]] = ..., until_stable: bool = ..., silhouette_thresholds: _Optional[_Iterable[float]] = ..., neighbours: _Optional[int] = ..., side: _Optional[_Union[Side, str]] = ..., frame: _Optional[_Union[Frame, str]] = ..., n_null: _Optional[int] = ..., neuron_only: bool = ..., seed: _Optional[int] = ..., cut_silhouettes: bool = ...) -> None: ...

class EmbedNeuronsRequest(_message.Message):
    __slots__ = ("index", "neurons", "embedding", "layer_norm", "side", "frame")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    NEURONS_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    LAYER_NORM_FIELD_NUMBER: _ClassVar[int]
    SIDE_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    index: str
    neurons: _containers.RepeatedCompositeFieldContainer[NeuronRange]
    embedding: Embedding
    layer_norm: LayerNorm
    side: Side
    frame: Frame
    def __init__(self, index: _Optional[str] = ..., neurons: _Optional[_Iterable[_Union[NeuronRange, _Mapping]]] = ..., embedding: _Optional[_Union[Embedding, str]] = ..., layer_norm: _Optional[_Union[LayerNorm, str]] = ..., side: _Optional[_Union[Side, str]] = ..., frame: _Optional[_Union[Frame, str]] = ...) -> None: ...

class GetExamplesRequest(_message.Message):
    __slots__ = ("index", "neurons", "examples", "whole_context", "side")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    NEURONS_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    WHOLE_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    SIDE_FIELD_NUMBER: _ClassVar[int]
    index: str
    neurons: _containers.RepeatedCompositeFieldContainer[NeuronRange]
    examples: _containers.RepeatedScalarFieldContainer[int]
    whole_context: bool
    side: Side
    def __init__(self, index: _Optional[str] = ..., neurons: _Optional[_Iterable[_Union[NeuronRange, _Mapping]]] = ..., examples: _Optional[_Iterable[int]] = ..., whole_context: bool = ..., side: _Optional[_Union[Side, str]] = ...) -> None: ...

class GetNeuronStatisticsRequest(_message.Message):
    __slots__ = ("index", "neurons", "side")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    NEURONS_FIELD_NUMBER: _ClassVar[int]
    SIDE_FIELD_NUMBER: _ClassVar[int]
    index: str
    neurons: _containers.RepeatedCompositeFieldContainer[NeuronRange]
    side: Side
    def __init__(self, index: _Optional[str] = ..., neurons: _Optional[_Iterable[_Union[NeuronRange, _Mapping]]] = ..., side: _Optional[_Union[Side, str]] = ...) -> None: ...

class GetLogitEffectsRequest(_message.Message):
    __slots__ = ("index", "neurons", "n_tokens", "side")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    NEURONS_FIELD_NUMBER: _ClassVar[int]
    N_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SIDE_FIELD_NUMBER: _ClassVar[int]
    index: str
    neurons: _containers.RepeatedCompositeFieldContainer[NeuronRange]
    n_tokens: int
    side: Side
    def __init__(self, index: _Optional[str] = ..., neurons: _Optional[_Iterable[_Union[NeuronRange, _Mapping]]] = ..., n_tokens: _Optional[int] = ..., side: _Optional[_Union[Side, str]] = ...) -> None: ...

class ListNeuronsRequest(_message.Message):
    __slots__ = ("index", "neurons", "clustering", "sort_by", "descending", "where", "page_size", "page_token", "skip", "side", "kinds", "cell", "summary")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    NEURONS_FIELD_NUMBER: _ClassVar[int]
    CLUSTERING_FIELD_NUMBER: _ClassVar[int]
    SORT_BY_FIELD_NUMBER: _ClassVar[int]
    DESCENDING_FIELD_NUMBER: _ClassVar[int]
    WHERE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    SKIP_FIELD_NUMBER: _ClassVar[int]
    SIDE_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    CELL_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    index: str
    neurons: _containers.RepeatedCompositeFieldContainer[NeuronRange]
    clustering: Clustering
    sort_by: NeuronMetric
    descending: bool
    where: _containers.RepeatedCompositeFieldContainer[MetricRange]
    page_size: int
    page_token: str
    skip: int
    side: Side
    kinds: _containers.RepeatedScalarFieldContainer[NeuronKind]
    cell: ClarityCell
    summary: bool
    def __init__(self, index: _Optional[str] = ..., neurons: _Optional[_Iterable[_Union[NeuronRange, _Mapping]]] = ..., clustering: _Optional[_Union[Clustering, _Mapping]] = ..., sort_by: _Optional[_Union[NeuronMetric, str]] = ..., descending: bool = ..., where: _Optional[_Iterable[_Union[MetricRange, _Mapping]]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., skip: _Optional[int] = ..., side: _Optional[_Union[Side, str]] = ..., kinds: _Optional[_Iterable[_Union[NeuronKind, str]]] = ..., cell: _Optional[_Union[ClarityCell, _Mapping]] = ..., summary: bool = ...) -> None: ...

class FindSimilarClustersRequest(_message.Message):
    __slots__ = ("index", "layer", "neuron", "clusters", "clustering", "similarity", "every_layer", "n_similar", "side")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    NEURON_FIELD_NUMBER: _ClassVar[int]
    CLUSTERS_FIELD_NUMBER: _ClassVar[int]
    CLUSTERING_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    EVERY_LAYER_FIELD_NUMBER: _ClassVar[int]
    N_SIMILAR_FIELD_NUMBER: _ClassVar[int]
    SIDE_FIELD_NUMBER: _ClassVar[int]
    index: str
    layer: int
    neuron: int
    clusters: _containers.RepeatedScalarFieldContainer[int]
    clustering: Clustering
    similarity: Similarity
    every_layer: bool
    n_similar: int
    side: Side
    def __init__(self, index: _Optional[str] = ..., layer: _Optional[int] = ..., neuron: _Optional[int] = ..., clusters: _Optional[_Iterable[int]] = ..., clustering: _Optional[_Union[Clustering, _Mapping]] = ..., similarity: _Optional[_Union[Similarity, str]] = ..., every_layer: bool = ..., n_similar: _Optional[int] = ..., side: _Optional[_Union[Side, str]] = ...) -> None: ...

class MeasureImportanceRequest(_message.Message):
    __slots__ = ("index", "neurons", "examples", "tokens_before", "mask_token", "side")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    NEURONS_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    TOKENS_BEFORE_FIELD_NUMBER: _ClassVar[int]
    MASK_TOKEN_FIELD_NUMBER: _ClassVar[int]
    SIDE_FIELD_NUMBER: _ClassVar[int]
    index: str
    neurons: _containers.RepeatedCompositeFieldContainer[NeuronRange]
    examples: _containers.RepeatedScalarFieldContainer[int]
    tokens_before: int
    mask_token: int
    side: Side
    def __init__(self, index: _Optional[str] = ..., neurons: _Optional[_Iterable[_Union[NeuronRange, _Mapping]]] = ..., examples: _Optional[_Iterable[int]] = ..., tokens_before: _Optional[int] = ..., mask_token: _Optional[int] = ..., side: _Optional[_Union[Side, str]] = ...) -> None: ...

class LabelClustersRequest(_message.Message):
    __slots__ = ("index", "neurons", "clustering", "side")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    NEURONS_FIELD_NUMBER: _ClassVar[int]
    CLUSTERING_FIELD_NUMBER: _ClassVar[int]
    SIDE_FIELD_NUMBER: _ClassVar[int]
    index: str
    neurons: _containers.RepeatedCompositeFieldContainer[NeuronRange]
    clustering: Clustering
    side: Side
    def __init__(self, index: _Optional[str] = ..., neurons: _Optional[_Iterable[_Union[NeuronRange, _Mapping]]] = ..., clustering: _Optional[_Union[Clustering, _Mapping]] = ..., side: _Optional[_Union[Side, str]] = ...) -> None: ...

class AblateClustersRequest(_message.Message):
    __slots__ = ("index", "layer", "neuron", "clustering", "clusters", "other", "text", "ablation", "n_tokens", "n_controls", "seed", "min_activation_fraction", "side")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    NEURON_FIELD_NUMBER: _ClassVar[int]
    CLUSTERING_FIELD_NUMBER: _ClassVar[int]
    CLUSTERS_FIELD_NUMBER: _ClassVar[int]
    OTHER_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    ABLATION_FIELD_NUMBER: _ClassVar[int]
    N_TOKENS_FIELD_NUMBER: _ClassVar[int]
    N_CONTROLS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    MIN_ACTIVATION_FRACTION_FIELD_NUMBER: _ClassVar[int]
    SIDE_FIELD_NUMBER: _ClassVar[int]
    index: str
    layer: int
    neuron: int
    clustering: Clustering
    clusters: _containers.RepeatedScalarFieldContainer[int]
    other: int
    text: str
    ablation: Ablation
    n_tokens: int
    n_controls: int
    seed: int
    min_activation_fraction: float
    side: Side
    def __init__(self, index: _Optional[str] = ..., layer: _Optional[int] = ..., neuron: _Optional[int] = ..., clustering: _Optional[_Union[Clustering, _Mapping]] = ..., clusters: _Optional[_Iterable[int]] = ..., other: _Optional[int] = ..., text: _Optional[str] = ..., ablation: _Optional[_Union[Ablation, str]] = ..., n_tokens: _Optional[int] = ..., n_controls: _Optional[int] = ..., seed: _Optional[int] = ..., min_activation_fraction: _Optional[float] = ..., side: _Optional[_Union[Side, str]] = ...) -> None: ...

class ExplainTextRequest(_message.Message):
    __slots__ = ("index", "text", "neurons", "clustering", "min_activation_fraction", "n_strongest", "side")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    NEURONS_FIELD_NUMBER: _ClassVar[int]
    CLUSTERING_FIELD_NUMBER: _ClassVar[int]
    MIN_ACTIVATION_FRACTION_FIELD_NUMBER: _ClassVar[int]
    N_STRONGEST_FIELD_NUMBER: _ClassVar[int]
    SIDE_FIELD_NUMBER: _ClassVar[int]
    index: str
    text: str
    neurons: _containers.RepeatedCompositeFieldContainer[NeuronRange]
    clustering: Clustering
    min_activation_fraction: float
    n_strongest: int
    side: Side
    def __init__(self, index: _Optional[str] = ..., text: _Optional[str] = ..., neurons: _Optional[_Iterable[_Union[NeuronRange, _Mapping]]] = ..., clustering: _Optional[_Union[Clustering, _Mapping]] = ..., min_activation_fraction: _Optional[float] = ..., n_strongest: _Optional[int] = ..., side: _Optional[_Union[Side, str]] = ...) -> None: ...

class MetricRange(_message.Message):
    __slots__ = ("metric", "least", "most")
    METRIC_FIELD_NUMBER: _ClassVar[int]
    LEAST_FIELD_NUMBER: _ClassVar[int]
    MOST_FIELD_NUMBER: _ClassVar[int]
    metric: NeuronMetric
    least: float
    most: float
    def __init__(self, metric: _Optional[_Union[NeuronMetric, str]] = ..., least: _Optional[float] = ..., most: _Optional[float] = ...) -> None: ...

class ClarityCell(_message.Message):
    __slots__ = ("layer", "step")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    layer: int
    step: int
    def __init__(self, layer: _Optional[int] = ..., step: _Optional[int] = ...) -> None: ...

class GetServerInfoResponse(_message.Message):
    __slots__ = ("version", "model", "device", "dtype", "default_index", "limits", "neighbour_library", "bos_token_id")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_INDEX_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    NEIGHBOUR_LIBRARY_FIELD_NUMBER: _ClassVar[int]
    BOS_TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    version: str
    model: Model
    device: str
    dtype: str
    default_index: str
    limits: Limits
    neighbour_library: Library
    bos_token_id: int
    def __init__(self, version: _Optional[str] = ..., model: _Optional[_Union[Model, _Mapping]] = ..., device: _Optional[str] = ..., dtype: _Optional[str] = ..., default_index: _Optional[str] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., neighbour_library: _Optional[_Union[Library, str]] = ..., bos_token_id: _Optional[int] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("id", "sha256", "n_layers", "n_neurons_per_layer", "d_model", "context_length", "family", "gated")
    ID_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    N_LAYERS_FIELD_NUMBER: _ClassVar[int]
    N_NEURONS_PER_LAYER_FIELD_NUMBER: _ClassVar[int]
    D_MODEL_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    FAMILY_FIELD_NUMBER: _ClassVar[int]
    GATED_FIELD_NUMBER: _ClassVar[int]
    id: str
    sha256: str
    n_layers: int
    n_neurons_per_layer: int
    d_model: int
    context_length: int
    family: str
    gated: bool
    def __init__(self, id: _Optional[str] = ..., sha256: _Optional[str] = ..., n_layers: _Optional[int] = ..., n_neurons_per_layer: _Optional[int] = ..., d_model: _Optional[int] = ..., context_length: _Optional[int] = ..., family: _Optional[str] = ..., gated: bool = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_message_bytes", "max_neurons_per_request", "max_thresholds", "max_requests_in_flight", "max_batch_cost", "max_queued_cost", "max_wait_ms", "bulk_batch_ms", "max_requests_in_flight_of_key", "daily_cost_quota", "max_neighbours")
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_NEURONS_PER_REQUEST_FIELD_NUMBER: _ClassVar[int]
    MAX_THRESHOLDS_FIELD_NUMBER: _ClassVar[int]
    MAX_REQUESTS_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_COST_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUED_COST_FIELD_NUMBER: _ClassVar[int]
    MAX_WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    BULK_BATCH_MS_FIELD_NUMBER: _ClassVar[int]
    MAX_REQUESTS_IN_FLIGHT_OF_KEY_FIELD_NUMBER: _ClassVar[int]
    DAILY_COST_QUOTA_FIELD_NUMBER: _ClassVar[int]
    MAX_NEIGHBOURS_FIELD_NUMBER: _ClassVar[int]
    max_message_bytes: int
    max_neurons_per_request: int
    max_thresholds: int
    max_requests_in_flight: int
    max_batch_cost: float
    max_queued_cost: float
    max_wait_ms: float
    bulk_batch_ms: float
    max_requests_in_flight_of_key: int
    daily_cost_quota: float
    max_neighbours: int
    def __init__(self, max_message_bytes: _Optional[int] = ..., max_neurons_per_request: _Optional[int] = ..., max_thresholds: _Optional[int] = ..., max_requests_in_flight: _Optional[int] = ..., max_batch_cost: _Optional[float] = ..., max_queued_cost: _Optional[float] = ..., max_wait_ms: _Optional[float] = ..., bulk_batch_ms: _Optional[float] = ..., max_requests_in_flight_of_key: _Optional[int] = ..., daily_cost_quota: _Optional[float] = ..., max_neighbours: _Optional[int] = ...) -> None: ...

class ListIndexesResponse(_message.Message):
    __slots__ = ("indexes",)
    INDEXES_FIELD_NUMBER: _ClassVar[int]
    indexes: _containers.RepeatedCompositeFieldContainer[Index]
    def __init__(self, indexes: _Optional[_Iterable[_Union[Index, _Mapping]]] = ...) -> None: ...

class Index(_message.Message):
    __slots__ = ("name", "sha256", "model_id", "model_sha256", "corpus_id", "corpus_sha256", "selection", "context_length", "bos", "windows", "n_documents", "n_contexts", "n_tokens", "n_layers", "n_neurons_per_layer", "n_examples", "n_neurons_with_examples", "software_version", "sides", "layers", "skip_positions", "n_negative_examples", "n_neurons_with_negative_examples", "n_longer_documents", "n_skipped_documents", "tests", "encoders")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_SHA256_FIELD_NUMBER: _ClassVar[int]
    CORPUS_ID_FIELD_NUMBER: _ClassVar[int]
    CORPUS_SHA256_FIELD_NUMBER: _ClassVar[int]
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    BOS_FIELD_NUMBER: _ClassVar[int]
    WINDOWS_FIELD_NUMBER: _ClassVar[int]
    N_DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    N_CONTEXTS_FIELD_NUMBER: _ClassVar[int]
    N_TOKENS_FIELD_NUMBER: _ClassVar[int]
    N_LAYERS_FIELD_NUMBER: _ClassVar[int]
    N_NEURONS_PER_LAYER_FIELD_NUMBER: _ClassVar[int]
    N_EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    N_NEURONS_WITH_EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_VERSION_FIELD_NUMBER: _ClassVar[int]
    SIDES_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    SKIP_POSITIONS_FIELD_NUMBER: _ClassVar[int]
    N_NEGATIVE_EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    N_NEURONS_WITH_NEGATIVE_EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    N_LONGER_DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    N_SKIPPED_DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    TESTS_FIELD_NUMBER: _ClassVar[int]
    ENCODERS_FIELD_NUMBER: _ClassVar[int]
    name: str
    sha256: str
    model_id: str
    model_sha256: str
    corpus_id: str
    corpus_sha256: str
    selection: Selection
    context_length: int
    bos: bool
    windows: str
    n_documents: int
    n_contexts: int
    n_tokens: int
    n_layers: int
    n_neurons_per_layer: int
    n_examples: int
    n_neurons_with_examples: int
    software_version: str
    sides: _containers.RepeatedScalarFieldContainer[str]
    layers: _containers.RepeatedScalarFieldContainer[int]
    skip_positions: int
    n_negative_examples: int
    n_neurons_with_negative_examples: int
    n_longer_documents: int
    n_skipped_documents: int
    tests: HeldTests
    encoders: _containers.RepeatedCompositeFieldContainer[Encoder]
    def __init__(self, name: _Optional[str] = ..., sha256: _Optional[str] = ..., model_id: _Optional[str] = ..., model_sha256: _Optional[str] = ..., corpus_id: _Optional[str] = ..., corpus_sha256: _Optional[str] = ..., selection: _Optional[_Union[Selection, _Mapping]] = ..., context_length: _Optional[int] = ..., bos: bool = ..., windows: _Optional[str] = ..., n_documents: _Optional[int] = ..., n_contexts: _Optional[int] = ..., n_tokens: _Optional[int] = ..., n_layers: _Optional[int] = ..., n_neurons_per_layer: _Optional[int] = ..., n_examples: _Optional[int] = ..., n_neurons_with_examples: _Optional[int] = ..., software_version: _Optional[str] = ..., sides: _Optional[_Iterable[str]] = ..., layers: _Optional[_Iterable[int]] = ..., skip_positions: _Optional[int] = ..., n_negative_examples: _Optional[int] = ..., n_neurons_with_negative_examples: _Optional[int] = ..., n_longer_documents: _Optional[int] = ..., n_skipped_documents: _Optional[int] = ..., tests: _Optional[_Union[HeldTests, _Mapping]] = ..., encoders: _Optional[_Iterable[_Union[Encoder, _Mapping]]] = ...) -> None: ...

class Encoder(_message.Message):
    __slots__ = ("layer", "name", "sha256", "point", "kind", "n_latents", "hook", "model")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    POINT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    N_LATENTS_FIELD_NUMBER: _ClassVar[int]
    HOOK_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    layer: int
    name: str
    sha256: str
    point: str
    kind: str
    n_latents: int
    hook: str
    model: str
    def __init__(self, layer: _Optional[int] = ..., name: _Optional[str] = ..., sha256: _Optional[str] = ..., point: _Optional[str] = ..., kind: _Optional[str] = ..., n_latents: _Optional[int] = ..., hook: _Optional[str] = ..., model: _Optional[str] = ...) -> None: ...

class HeldTests(_message.Message):
    __slots__ = ("n_null", "seed", "clusters")
    N_NULL_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    CLUSTERS_FIELD_NUMBER: _ClassVar[int]
    n_null: int
    seed: int
    clusters: bool
    def __init__(self, n_null: _Optional[int] = ..., seed: _Optional[int] = ..., clusters: bool = ...) -> None: ...

class Selection(_message.Message):
    __slots__ = ("rule", "min_activation_fraction", "max_examples", "seed")
    RULE_FIELD_NUMBER: _ClassVar[int]
    MIN_ACTIVATION_FRACTION_FIELD_NUMBER: _ClassVar[int]
    MAX_EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    rule: str
    min_activation_fraction: float
    max_examples: int
    seed: int
    def __init__(self, rule: _Optional[str] = ..., min_activation_fraction: _Optional[float] = ..., max_examples: _Optional[int] = ..., seed: _Optional[int] = ...) -> None: ...

class Provenance(_message.Message):
    __slots__ = ("index", "index_sha256", "model_id", "model_sha256", "software_version", "embedding", "layer_norm", "algorithm", "linkage", "distance_threshold", "thresholds", "until_stable", "neighbours", "xhat_dtype", "side", "frame", "n_null", "seed", "unembedding_sha256", "unit")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    INDEX_SHA256_FIELD_NUMBER: _ClassVar[int]
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_SHA256_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_VERSION_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    LAYER_NORM_FIELD_NUMBER: _ClassVar[int]
    ALGORITHM_FIELD_NUMBER: _ClassVar[int]
    LINKAGE_FIELD_NUMBER: _ClassVar[int]
    DISTANCE_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    THRESHOLDS_FIELD_NUMBER: _ClassVar[int]
    UNTIL_STABLE_FIELD_NUMBER: _ClassVar[int]
    NEIGHBOURS_FIELD_NUMBER: _ClassVar[int]
    XHAT_DTYPE_FIELD_NUMBER: _ClassVar[int]
    SIDE_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    N_NULL_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    UNEMBEDDING_SHA256_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    index: str
    index_sha256: str
    model_id: str
    model_sha256: str
    software_version: str
    embedding: Embedding
    layer_norm: LayerNorm
    algorithm: Algorithm
    linkage: Linkage
    distance_threshold: float
    thresholds: _containers.RepeatedScalarFieldContainer[float]
    until_stable: bool
    neighbours: int
    xhat_dtype: str
    side: Side
    frame: Frame
    n_null: int
    seed: int
    unembedding_sha256: str
    unit: str
    def __init__(self, index: _Optional[str] = ..., index_sha256: _Optional[str] = ..., model_id: _Optional[str] = ..., model_sha256: _Optional[str] = ..., software_version: _Optional[str] = ..., embedding: _Optional[_Union[Embedding, str]] = ..., layer_norm: _Optional[_Union[LayerNorm, str]] = ..., algorithm: _Optional[_Union[Algorithm, str]] = ..., linkage: _Optional[_Union[Linkage, str]] = ..., distance_threshold: _Optional[float] = ..., thresholds: _Optional[_Iterable[float]] = ..., until_stable: bool = ..., neighbours: _Optional[int] = ..., xhat_dtype: _Optional[str] = ..., side: _Optional[_Union[Side, str]] = ..., frame: _Optional[_Union[Frame, str]] = ..., n_null: _Optional[int] = ..., seed: _Optional[int] = ..., unembedding_sha256: _Optional[str] = ..., unit: _Optional[str] = ...) -> None: ...

class Timing(_message.Message):
    __slots__ = ("queue_ns", "compute_ns", "batch_size")
    QUEUE_NS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_NS_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    queue_ns: int
    compute_ns: int
    batch_size: int
    def __init__(self, queue_ns: _Optional[int] = ..., compute_ns: _Optional[int] = ..., batch_size: _Optional[int] = ...) -> None: ...

class ClusterNeuronsResponse(_message.Message):
    __slots__ = ("provenance", "timing", "continues", "neurons", "n_examples", "labels", "merges", "heights", "node_centrals", "node_mean_distances", "n_clusters", "max_distance", "mean_distance", "intra", "inter", "silhouette", "largest_share", "methods", "silhouettes", "libraries", "significance", "merge_tests", "key_tokens", "null_metrics", "stability", "prediction_strength", "cut_silhouettes")
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    CONTINUES_FIELD_NUMBER: _ClassVar[int]
    NEURONS_FIELD_NUMBER: _ClassVar[int]
    N_EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    MERGES_FIELD_NUMBER: _ClassVar[int]
    HEIGHTS_FIELD_NUMBER: _ClassVar[int]
    NODE_CENTRALS_FIELD_NUMBER: _ClassVar[int]
    NODE_MEAN_DISTANCES_FIELD_NUMBER: _ClassVar[int]
    N_CLUSTERS_FIELD_NUMBER: _ClassVar[int]
    MAX_DISTANCE_FIELD_NUMBER: _ClassVar[int]
    MEAN_DISTANCE_FIELD_NUMBER: _ClassVar[int]
    INTRA_FIELD_NUMBER: _ClassVar[int]
    INTER_FIELD_NUMBER: _ClassVar[int]
    SILHOUETTE_FIELD_NUMBER: _ClassVar[int]
    LARGEST_SHARE_FIELD_NUMBER: _ClassVar[int]
    METHODS_FIELD_NUMBER: _ClassVar[int]
    SILHOUETTES_FIELD_NUMBER: _ClassVar[int]
    LIBRARIES_FIELD_NUMBER: _ClassVar[int]
    SIGNIFICANCE_FIELD_NUMBER: _ClassVar[int]
    MERGE_TESTS_FIELD_NUMBER: _ClassVar[int]
    KEY_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NULL_METRICS_FIELD_NUMBER: _ClassVar[int]
    STABILITY_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_STRENGTH_FIELD_NUMBER: _ClassVar[int]
    CUT_SILHOUETTES_FIELD_NUMBER: _ClassVar[int]
    provenance: Provenance
    timing: Timing
    continues: bool
    neurons: _tensor_pb2.Tensor
    n_examples: _tensor_pb2.Tensor
    labels: _tensor_pb2.Tensor
    merges: _tensor_pb2.Tensor
    heights: _tensor_pb2.Tensor
    node_centrals: _tensor_pb2.Tensor
    node_mean_distances: _tensor_pb2.Tensor
    n_clusters: _tensor_pb2.Tensor
    max_distance: _tensor_pb2.Tensor
    mean_distance: _tensor_pb2.Tensor
    intra: _tensor_pb2.Tensor
    inter: _tensor_pb2.Tensor
    silhouette: _tensor_pb2.Tensor
    largest_share: _tensor_pb2.Tensor
    methods: _tensor_pb2.Tensor
    silhouettes: _tensor_pb2.Tensor
    libraries: _tensor_pb2.Tensor
    significance: _tensor_pb2.Tensor
    merge_tests: _tensor_pb2.Tensor
    key_tokens: _tensor_pb2.Tensor
    null_metrics: _tensor_pb2.Tensor
    stability: _tensor_pb2.Tensor
    prediction_strength: _tensor_pb2.Tensor
    cut_silhouettes: _tensor_pb2.Tensor
    def __init__(self, provenance: _Optional[_Union[Provenance, _Mapping]] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ..., continues: bool = ..., neurons: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., n_examples: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., labels: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., merges: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., heights: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., node_centrals: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., node_mean_distances: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., n_clusters: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., max_distance: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., mean_distance: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., intra: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., inter: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., silhouette: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., largest_share: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., methods: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., silhouettes: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., libraries: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., significance: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., merge_tests: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., key_tokens: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., null_metrics: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., stability: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., prediction_strength: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., cut_silhouettes: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...

class EmbedNeuronsResponse(_message.Message):
    __slots__ = ("provenance", "timing", "continues", "neurons", "n_examples", "embeddings")
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    CONTINUES_FIELD_NUMBER: _ClassVar[int]
    NEURONS_FIELD_NUMBER: _ClassVar[int]
    N_EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    provenance: Provenance
    timing: Timing
    continues: bool
    neurons: _tensor_pb2.Tensor
    n_examples: _tensor_pb2.Tensor
    embeddings: _tensor_pb2.Tensor
    def __init__(self, provenance: _Optional[_Union[Provenance, _Mapping]] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ..., continues: bool = ..., neurons: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., n_examples: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., embeddings: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...

class GetExamplesResponse(_message.Message):
    __slots__ = ("provenance", "timing", "continues", "neurons", "places", "documents", "contexts", "positions", "activations", "n_tokens", "keys", "tokens", "token_activations", "part_numbers", "part_counts", "token_ids")
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    CONTINUES_FIELD_NUMBER: _ClassVar[int]
    NEURONS_FIELD_NUMBER: _ClassVar[int]
    PLACES_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    CONTEXTS_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    ACTIVATIONS_FIELD_NUMBER: _ClassVar[int]
    N_TOKENS_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_ACTIVATIONS_FIELD_NUMBER: _ClassVar[int]
    PART_NUMBERS_FIELD_NUMBER: _ClassVar[int]
    PART_COUNTS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    provenance: Provenance
    timing: Timing
    continues: bool
    neurons: _tensor_pb2.Tensor
    places: _tensor_pb2.Tensor
    documents: _containers.RepeatedScalarFieldContainer[str]
    contexts: _tensor_pb2.Tensor
    positions: _tensor_pb2.Tensor
    activations: _tensor_pb2.Tensor
    n_tokens: _tensor_pb2.Tensor
    keys: _tensor_pb2.Tensor
    tokens: _containers.RepeatedScalarFieldContainer[str]
    token_activations: _tensor_pb2.Tensor
    part_numbers: _tensor_pb2.Tensor
    part_counts: _tensor_pb2.Tensor
    token_ids: _tensor_pb2.Tensor
    def __init__(self, provenance: _Optional[_Union[Provenance, _Mapping]] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ..., continues: bool = ..., neurons: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., places: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., documents: _Optional[_Iterable[str]] = ..., contexts: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., positions: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., activations: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., n_tokens: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., keys: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., tokens: _Optional[_Iterable[str]] = ..., token_activations: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., part_numbers: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., part_counts: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., token_ids: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...

class GetNeuronStatisticsResponse(_message.Message):
    __slots__ = ("provenance", "timing", "continues", "neurons", "maximum_activation", "mean_activation", "share_positive", "histogram", "n_examples", "lowest_example", "highest_example", "threshold", "minimum_activation")
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    CONTINUES_FIELD_NUMBER: _ClassVar[int]
    NEURONS_FIELD_NUMBER: _ClassVar[int]
    MAXIMUM_ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    MEAN_ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    SHARE_POSITIVE_FIELD_NUMBER: _ClassVar[int]
    HISTOGRAM_FIELD_NUMBER: _ClassVar[int]
    N_EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    LOWEST_EXAMPLE_FIELD_NUMBER: _ClassVar[int]
    HIGHEST_EXAMPLE_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    MINIMUM_ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    provenance: Provenance
    timing: Timing
    continues: bool
    neurons: _tensor_pb2.Tensor
    maximum_activation: _tensor_pb2.Tensor
    mean_activation: _tensor_pb2.Tensor
    share_positive: _tensor_pb2.Tensor
    histogram: _tensor_pb2.Tensor
    n_examples: _tensor_pb2.Tensor
    lowest_example: _tensor_pb2.Tensor
    highest_example: _tensor_pb2.Tensor
    threshold: _tensor_pb2.Tensor
    minimum_activation: _tensor_pb2.Tensor
    def __init__(self, provenance: _Optional[_Union[Provenance, _Mapping]] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ..., continues: bool = ..., neurons: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., maximum_activation: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., mean_activation: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., share_positive: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., histogram: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., n_examples: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., lowest_example: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., highest_example: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., threshold: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., minimum_activation: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...

class GetLogitEffectsResponse(_message.Message):
    __slots__ = ("provenance", "timing", "continues", "neurons", "n_tokens", "skewness", "kurtosis", "histogram", "effects", "token_ids", "tokens")
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    CONTINUES_FIELD_NUMBER: _ClassVar[int]
    NEURONS_FIELD_NUMBER: _ClassVar[int]
    N_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SKEWNESS_FIELD_NUMBER: _ClassVar[int]
    KURTOSIS_FIELD_NUMBER: _ClassVar[int]
    HISTOGRAM_FIELD_NUMBER: _ClassVar[int]
    EFFECTS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    provenance: Provenance
    timing: Timing
    continues: bool
    neurons: _tensor_pb2.Tensor
    n_tokens: _tensor_pb2.Tensor
    skewness: _tensor_pb2.Tensor
    kurtosis: _tensor_pb2.Tensor
    histogram: _tensor_pb2.Tensor
    effects: _tensor_pb2.Tensor
    token_ids: _tensor_pb2.Tensor
    tokens: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, provenance: _Optional[_Union[Provenance, _Mapping]] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ..., continues: bool = ..., neurons: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., n_tokens: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., skewness: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., kurtosis: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., histogram: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., effects: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., token_ids: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., tokens: _Optional[_Iterable[str]] = ...) -> None: ...

class ListNeuronsResponse(_message.Message):
    __slots__ = ("provenance", "timing", "continues", "neurons", "n_examples", "n_clusters", "max_distance", "mean_distance", "intra", "inter", "silhouette", "largest_share", "second_share", "maximum_activation", "mean_activation", "share_positive", "rare", "n_matching", "next_page_token", "methods", "n_approximate", "p_value", "null_silhouette", "excess_silhouette", "best_silhouette", "kinds", "q_value", "significant_clusters", "stability", "prediction_strength", "summary")
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    CONTINUES_FIELD_NUMBER: _ClassVar[int]
    NEURONS_FIELD_NUMBER: _ClassVar[int]
    N_EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    N_CLUSTERS_FIELD_NUMBER: _ClassVar[int]
    MAX_DISTANCE_FIELD_NUMBER: _ClassVar[int]
    MEAN_DISTANCE_FIELD_NUMBER: _ClassVar[int]
    INTRA_FIELD_NUMBER: _ClassVar[int]
    INTER_FIELD_NUMBER: _ClassVar[int]
    SILHOUETTE_FIELD_NUMBER: _ClassVar[int]
    LARGEST_SHARE_FIELD_NUMBER: _ClassVar[int]
    SECOND_SHARE_FIELD_NUMBER: _ClassVar[int]
    MAXIMUM_ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    MEAN_ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    SHARE_POSITIVE_FIELD_NUMBER: _ClassVar[int]
    RARE_FIELD_NUMBER: _ClassVar[int]
    N_MATCHING_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    METHODS_FIELD_NUMBER: _ClassVar[int]
    N_APPROXIMATE_FIELD_NUMBER: _ClassVar[int]
    P_VALUE_FIELD_NUMBER: _ClassVar[int]
    NULL_SILHOUETTE_FIELD_NUMBER: _ClassVar[int]
    EXCESS_SILHOUETTE_FIELD_NUMBER: _ClassVar[int]
    BEST_SILHOUETTE_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    Q_VALUE_FIELD_NUMBER: _ClassVar[int]
    SIGNIFICANT_CLUSTERS_FIELD_NUMBER: _ClassVar[int]
    STABILITY_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_STRENGTH_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    provenance: Provenance
    timing: Timing
    continues: bool
    neurons: _tensor_pb2.Tensor
    n_examples: _tensor_pb2.Tensor
    n_clusters: _tensor_pb2.Tensor
    max_distance: _tensor_pb2.Tensor
    mean_distance: _tensor_pb2.Tensor
    intra: _tensor_pb2.Tensor
    inter: _tensor_pb2.Tensor
    silhouette: _tensor_pb2.Tensor
    largest_share: _tensor_pb2.Tensor
    second_share: _tensor_pb2.Tensor
    maximum_activation: _tensor_pb2.Tensor
    mean_activation: _tensor_pb2.Tensor
    share_positive: _tensor_pb2.Tensor
    rare: _tensor_pb2.Tensor
    n_matching: int
    next_page_token: str
    methods: _tensor_pb2.Tensor
    n_approximate: int
    p_value: _tensor_pb2.Tensor
    null_silhouette: _tensor_pb2.Tensor
    excess_silhouette: _tensor_pb2.Tensor
    best_silhouette: _tensor_pb2.Tensor
    kinds: _tensor_pb2.Tensor
    q_value: _tensor_pb2.Tensor
    significant_clusters: _tensor_pb2.Tensor
    stability: _tensor_pb2.Tensor
    prediction_strength: _tensor_pb2.Tensor
    summary: NeuronSummary
    def __init__(self, provenance: _Optional[_Union[Provenance, _Mapping]] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ..., continues: bool = ..., neurons: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., n_examples: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., n_clusters: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., max_distance: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., mean_distance: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., intra: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., inter: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., silhouette: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., largest_share: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., second_share: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., maximum_activation: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., mean_activation: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., share_positive: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., rare: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., n_matching: _Optional[int] = ..., next_page_token: _Optional[str] = ..., methods: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., n_approximate: _Optional[int] = ..., p_value: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., null_silhouette: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., excess_silhouette: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., best_silhouette: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., kinds: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., q_value: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., significant_clusters: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., stability: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., prediction_strength: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., summary: _Optional[_Union[NeuronSummary, _Mapping]] = ...) -> None: ...

class NeuronSummary(_message.Message):
    __slots__ = ("layers", "clarity", "kinds", "n_neurons", "n_tested")
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    CLARITY_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    N_NEURONS_FIELD_NUMBER: _ClassVar[int]
    N_TESTED_FIELD_NUMBER: _ClassVar[int]
    layers: _tensor_pb2.Tensor
    clarity: _tensor_pb2.Tensor
    kinds: _tensor_pb2.Tensor
    n_neurons: int
    n_tested: int
    def __init__(self, layers: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., clarity: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., kinds: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., n_neurons: _Optional[int] = ..., n_tested: _Optional[int] = ...) -> None: ...

class FindSimilarClustersResponse(_message.Message):
    __slots__ = ("provenance", "timing", "continues", "neurons", "labels", "centrals", "n_similar", "similar_neurons", "similar_labels", "similar_centrals", "similar_sizes", "similarities", "methods", "similar_methods")
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    CONTINUES_FIELD_NUMBER: _ClassVar[int]
    NEURONS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    CENTRALS_FIELD_NUMBER: _ClassVar[int]
    N_SIMILAR_FIELD_NUMBER: _ClassVar[int]
    SIMILAR_NEURONS_FIELD_NUMBER: _ClassVar[int]
    SIMILAR_LABELS_FIELD_NUMBER: _ClassVar[int]
    SIMILAR_CENTRALS_FIELD_NUMBER: _ClassVar[int]
    SIMILAR_SIZES_FIELD_NUMBER: _ClassVar[int]
    SIMILARITIES_FIELD_NUMBER: _ClassVar[int]
    METHODS_FIELD_NUMBER: _ClassVar[int]
    SIMILAR_METHODS_FIELD_NUMBER: _ClassVar[int]
    provenance: Provenance
    timing: Timing
    continues: bool
    neurons: _tensor_pb2.Tensor
    labels: _tensor_pb2.Tensor
    centrals: _tensor_pb2.Tensor
    n_similar: _tensor_pb2.Tensor
    similar_neurons: _tensor_pb2.Tensor
    similar_labels: _tensor_pb2.Tensor
    similar_centrals: _tensor_pb2.Tensor
    similar_sizes: _tensor_pb2.Tensor
    similarities: _tensor_pb2.Tensor
    methods: _tensor_pb2.Tensor
    similar_methods: _tensor_pb2.Tensor
    def __init__(self, provenance: _Optional[_Union[Provenance, _Mapping]] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ..., continues: bool = ..., neurons: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., labels: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., centrals: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., n_similar: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., similar_neurons: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., similar_labels: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., similar_centrals: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., similar_sizes: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., similarities: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., methods: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., similar_methods: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...

class MeasureImportanceResponse(_message.Message):
    __slots__ = ("provenance", "timing", "continues", "neurons", "places", "activations", "n_tokens", "tokens", "importances", "part_numbers", "part_counts")
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    CONTINUES_FIELD_NUMBER: _ClassVar[int]
    NEURONS_FIELD_NUMBER: _ClassVar[int]
    PLACES_FIELD_NUMBER: _ClassVar[int]
    ACTIVATIONS_FIELD_NUMBER: _ClassVar[int]
    N_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    IMPORTANCES_FIELD_NUMBER: _ClassVar[int]
    PART_NUMBERS_FIELD_NUMBER: _ClassVar[int]
    PART_COUNTS_FIELD_NUMBER: _ClassVar[int]
    provenance: Provenance
    timing: Timing
    continues: bool
    neurons: _tensor_pb2.Tensor
    places: _tensor_pb2.Tensor
    activations: _tensor_pb2.Tensor
    n_tokens: _tensor_pb2.Tensor
    tokens: _containers.RepeatedScalarFieldContainer[str]
    importances: _tensor_pb2.Tensor
    part_numbers: _tensor_pb2.Tensor
    part_counts: _tensor_pb2.Tensor
    def __init__(self, provenance: _Optional[_Union[Provenance, _Mapping]] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ..., continues: bool = ..., neurons: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., places: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., activations: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., n_tokens: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., tokens: _Optional[_Iterable[str]] = ..., importances: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., part_numbers: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., part_counts: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...

class LabelClustersResponse(_message.Message):
    __slots__ = ("provenance", "timing", "continues", "neurons", "n_clusters", "labels", "sizes", "texts", "methods", "scores", "null_scores", "neuron_scores", "precisions", "recalls")
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    CONTINUES_FIELD_NUMBER: _ClassVar[int]
    NEURONS_FIELD_NUMBER: _ClassVar[int]
    N_CLUSTERS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    SIZES_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    METHODS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    NULL_SCORES_FIELD_NUMBER: _ClassVar[int]
    NEURON_SCORES_FIELD_NUMBER: _ClassVar[int]
    PRECISIONS_FIELD_NUMBER: _ClassVar[int]
    RECALLS_FIELD_NUMBER: _ClassVar[int]
    provenance: Provenance
    timing: Timing
    continues: bool
    neurons: _tensor_pb2.Tensor
    n_clusters: _tensor_pb2.Tensor
    labels: _tensor_pb2.Tensor
    sizes: _tensor_pb2.Tensor
    texts: _containers.RepeatedScalarFieldContainer[str]
    methods: _tensor_pb2.Tensor
    scores: _tensor_pb2.Tensor
    null_scores: _tensor_pb2.Tensor
    neuron_scores: _tensor_pb2.Tensor
    precisions: _tensor_pb2.Tensor
    recalls: _tensor_pb2.Tensor
    def __init__(self, provenance: _Optional[_Union[Provenance, _Mapping]] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ..., continues: bool = ..., neurons: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., n_clusters: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., labels: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., sizes: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., texts: _Optional[_Iterable[str]] = ..., methods: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., scores: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., null_scores: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., neuron_scores: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., precisions: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., recalls: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...

class AblateClustersResponse(_message.Message):
    __slots__ = ("provenance", "timing", "continues", "neurons", "n_effects", "n_differences", "labels", "ablated", "others", "targets", "n_tokens", "n_next", "n_set", "activations", "divergences", "divergence_errors", "loss_changes", "loss_change_errors", "n_moved", "token_ids", "tokens", "changes", "probabilities", "difference_neurons", "distances", "null_means", "p_values")
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    CONTINUES_FIELD_NUMBER: _ClassVar[int]
    NEURONS_FIELD_NUMBER: _ClassVar[int]
    N_EFFECTS_FIELD_NUMBER: _ClassVar[int]
    N_DIFFERENCES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    ABLATED_FIELD_NUMBER: _ClassVar[int]
    OTHERS_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    N_TOKENS_FIELD_NUMBER: _ClassVar[int]
    N_NEXT_FIELD_NUMBER: _ClassVar[int]
    N_SET_FIELD_NUMBER: _ClassVar[int]
    ACTIVATIONS_FIELD_NUMBER: _ClassVar[int]
    DIVERGENCES_FIELD_NUMBER: _ClassVar[int]
    DIVERGENCE_ERRORS_FIELD_NUMBER: _ClassVar[int]
    LOSS_CHANGES_FIELD_NUMBER: _ClassVar[int]
    LOSS_CHANGE_ERRORS_FIELD_NUMBER: _ClassVar[int]
    N_MOVED_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCE_NEURONS_FIELD_NUMBER: _ClassVar[int]
    DISTANCES_FIELD_NUMBER: _ClassVar[int]
    NULL_MEANS_FIELD_NUMBER: _ClassVar[int]
    P_VALUES_FIELD_NUMBER: _ClassVar[int]
    provenance: Provenance
    timing: Timing
    continues: bool
    neurons: _tensor_pb2.Tensor
    n_effects: _tensor_pb2.Tensor
    n_differences: _tensor_pb2.Tensor
    labels: _tensor_pb2.Tensor
    ablated: _tensor_pb2.Tensor
    others: _tensor_pb2.Tensor
    targets: _tensor_pb2.Tensor
    n_tokens: _tensor_pb2.Tensor
    n_next: _tensor_pb2.Tensor
    n_set: _tensor_pb2.Tensor
    activations: _tensor_pb2.Tensor
    divergences: _tensor_pb2.Tensor
    divergence_errors: _tensor_pb2.Tensor
    loss_changes: _tensor_pb2.Tensor
    loss_change_errors: _tensor_pb2.Tensor
    n_moved: _tensor_pb2.Tensor
    token_ids: _tensor_pb2.Tensor
    tokens: _containers.RepeatedScalarFieldContainer[str]
    changes: _tensor_pb2.Tensor
    probabilities: _tensor_pb2.Tensor
    difference_neurons: _tensor_pb2.Tensor
    distances: _tensor_pb2.Tensor
    null_means: _tensor_pb2.Tensor
    p_values: _tensor_pb2.Tensor
    def __init__(self, provenance: _Optional[_Union[Provenance, _Mapping]] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ..., continues: bool = ..., neurons: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., n_effects: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., n_differences: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., labels: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., ablated: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., others: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., targets: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., n_tokens: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., n_next: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., n_set: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., activations: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., divergences: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., divergence_errors: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., loss_changes: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., loss_change_errors: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., n_moved: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., token_ids: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., tokens: _Optional[_Iterable[str]] = ..., changes: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., probabilities: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., difference_neurons: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., distances: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., null_means: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., p_values: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...

class ExplainTextResponse(_message.Message):
    __slots__ = ("provenance", "timing", "continues", "positions", "tokens", "n_activations", "active_neurons", "activations", "shares", "fires", "clusters", "distances", "part_numbers", "part_counts")
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    CONTINUES_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    N_ACTIVATIONS_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_NEURONS_FIELD_NUMBER: _ClassVar[int]
    ACTIVATIONS_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    FIRES_FIELD_NUMBER: _ClassVar[int]
    CLUSTERS_FIELD_NUMBER: _ClassVar[int]
    DISTANCES_FIELD_NUMBER: _ClassVar[int]
    PART_NUMBERS_FIELD_NUMBER: _ClassVar[int]
    PART_COUNTS_FIELD_NUMBER: _ClassVar[int]
    provenance: Provenance
    timing: Timing
    continues: bool
    positions: _tensor_pb2.Tensor
    tokens: _containers.RepeatedScalarFieldContainer[str]
    n_activations: _tensor_pb2.Tensor
    active_neurons: _tensor_pb2.Tensor
    activations: _tensor_pb2.Tensor
    shares: _tensor_pb2.Tensor
    fires: _tensor_pb2.Tensor
    clusters: _tensor_pb2.Tensor
    distances: _tensor_pb2.Tensor
    part_numbers: _tensor_pb2.Tensor
    part_counts: _tensor_pb2.Tensor
    def __init__(self, provenance: _Optional[_Union[Provenance, _Mapping]] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ..., continues: bool = ..., positions: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., tokens: _Optional[_Iterable[str]] = ..., n_activations: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., active_neurons: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., activations: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., shares: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., fires: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., clusters: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., distances: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., part_numbers: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., part_counts: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...

class KeptName(_message.Message):
    __slots__ = ("layer", "neuron", "members", "text", "method", "author", "time_s", "scores")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    NEURON_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    TIME_S_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    layer: int
    neuron: int
    members: _containers.RepeatedScalarFieldContainer[int]
    text: str
    method: LabelMethod
    author: str
    time_s: int
    scores: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, layer: _Optional[int] = ..., neuron: _Optional[int] = ..., members: _Optional[_Iterable[int]] = ..., text: _Optional[str] = ..., method: _Optional[_Union[LabelMethod, str]] = ..., author: _Optional[str] = ..., time_s: _Optional[int] = ..., scores: _Optional[_Iterable[float]] = ...) -> None: ...

class KeepNamesRequest(_message.Message):
    __slots__ = ("index", "side", "names")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    SIDE_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    index: str
    side: Side
    names: _containers.RepeatedCompositeFieldContainer[KeptName]
    def __init__(self, index: _Optional[str] = ..., side: _Optional[_Union[Side, str]] = ..., names: _Optional[_Iterable[_Union[KeptName, _Mapping]]] = ...) -> None: ...

class KeepNamesResponse(_message.Message):
    __slots__ = ("n_changed",)
    N_CHANGED_FIELD_NUMBER: _ClassVar[int]
    n_changed: int
    def __init__(self, n_changed: _Optional[int] = ...) -> None: ...

class ListNamesRequest(_message.Message):
    __slots__ = ("index", "neurons", "side", "history")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    NEURONS_FIELD_NUMBER: _ClassVar[int]
    SIDE_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    index: str
    neurons: _containers.RepeatedCompositeFieldContainer[NeuronRange]
    side: Side
    history: bool
    def __init__(self, index: _Optional[str] = ..., neurons: _Optional[_Iterable[_Union[NeuronRange, _Mapping]]] = ..., side: _Optional[_Union[Side, str]] = ..., history: bool = ...) -> None: ...

class ListNamesResponse(_message.Message):
    __slots__ = ("provenance", "timing", "continues", "neurons", "n_members", "members", "texts", "methods", "authors", "times", "scores")
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    CONTINUES_FIELD_NUMBER: _ClassVar[int]
    NEURONS_FIELD_NUMBER: _ClassVar[int]
    N_MEMBERS_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    METHODS_FIELD_NUMBER: _ClassVar[int]
    AUTHORS_FIELD_NUMBER: _ClassVar[int]
    TIMES_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    provenance: Provenance
    timing: Timing
    continues: bool
    neurons: _tensor_pb2.Tensor
    n_members: _tensor_pb2.Tensor
    members: _tensor_pb2.Tensor
    texts: _containers.RepeatedScalarFieldContainer[str]
    methods: _tensor_pb2.Tensor
    authors: _containers.RepeatedScalarFieldContainer[str]
    times: _tensor_pb2.Tensor
    scores: _tensor_pb2.Tensor
    def __init__(self, provenance: _Optional[_Union[Provenance, _Mapping]] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ..., continues: bool = ..., neurons: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., n_members: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., members: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., texts: _Optional[_Iterable[str]] = ..., methods: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., authors: _Optional[_Iterable[str]] = ..., times: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., scores: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...

class SearchClustersRequest(_message.Message):
    __slots__ = ("index", "side", "query", "found_by", "layer", "least_size", "page_size", "page_token")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    SIDE_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    FOUND_BY_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    LEAST_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    index: str
    side: Side
    query: str
    found_by: _containers.RepeatedScalarFieldContainer[FoundBy]
    layer: int
    least_size: int
    page_size: int
    page_token: str
    def __init__(self, index: _Optional[str] = ..., side: _Optional[_Union[Side, str]] = ..., query: _Optional[str] = ..., found_by: _Optional[_Iterable[_Union[FoundBy, str]]] = ..., layer: _Optional[int] = ..., least_size: _Optional[int] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class FoundCluster(_message.Message):
    __slots__ = ("layer", "neuron", "label", "rank", "size", "central", "name", "method", "found_by", "share", "n_texts", "n_with", "examples")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    NEURON_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    CENTRAL_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    FOUND_BY_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    N_TEXTS_FIELD_NUMBER: _ClassVar[int]
    N_WITH_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    layer: int
    neuron: int
    label: int
    rank: int
    size: int
    central: int
    name: str
    method: LabelMethod
    found_by: FoundBy
    share: float
    n_texts: int
    n_with: int
    examples: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, layer: _Optional[int] = ..., neuron: _Optional[int] = ..., label: _Optional[int] = ..., rank: _Optional[int] = ..., size: _Optional[int] = ..., central: _Optional[int] = ..., name: _Optional[str] = ..., method: _Optional[_Union[LabelMethod, str]] = ..., found_by: _Optional[_Union[FoundBy, str]] = ..., share: _Optional[float] = ..., n_texts: _Optional[int] = ..., n_with: _Optional[int] = ..., examples: _Optional[_Iterable[int]] = ...) -> None: ...

class SearchClustersResponse(_message.Message):
    __slots__ = ("provenance", "clusters", "next_page_token", "n_found", "stopped", "n_done", "n_to_do", "layers", "n_in_layers")
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    CLUSTERS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    N_FOUND_FIELD_NUMBER: _ClassVar[int]
    STOPPED_FIELD_NUMBER: _ClassVar[int]
    N_DONE_FIELD_NUMBER: _ClassVar[int]
    N_TO_DO_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    N_IN_LAYERS_FIELD_NUMBER: _ClassVar[int]
    provenance: Provenance
    clusters: _containers.RepeatedCompositeFieldContainer[FoundCluster]
    next_page_token: str
    n_found: _containers.RepeatedScalarFieldContainer[int]
    stopped: bool
    n_done: int
    n_to_do: int
    layers: _containers.RepeatedScalarFieldContainer[int]
    n_in_layers: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, provenance: _Optional[_Union[Provenance, _Mapping]] = ..., clusters: _Optional[_Iterable[_Union[FoundCluster, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., n_found: _Optional[_Iterable[int]] = ..., stopped: bool = ..., n_done: _Optional[int] = ..., n_to_do: _Optional[int] = ..., layers: _Optional[_Iterable[int]] = ..., n_in_layers: _Optional[_Iterable[int]] = ...) -> None: ...

class MapClustersRequest(_message.Message):
    __slots__ = ("index", "layers", "groups", "side")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    SIDE_FIELD_NUMBER: _ClassVar[int]
    index: str
    layers: _containers.RepeatedScalarFieldContainer[int]
    groups: _containers.RepeatedScalarFieldContainer[int]
    side: Side
    def __init__(self, index: _Optional[str] = ..., layers: _Optional[_Iterable[int]] = ..., groups: _Optional[_Iterable[int]] = ..., side: _Optional[_Union[Side, str]] = ...) -> None: ...

class MapClustersResponse(_message.Message):
    __slots__ = ("provenance", "timing", "continues", "layers", "n_clusters", "n_grouped", "n_groups", "recalls", "n_listed", "groups", "texts", "scores", "null_scores", "sizes", "neurons", "labels", "ranks", "n_examples", "centrals", "similarities")
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    CONTINUES_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    N_CLUSTERS_FIELD_NUMBER: _ClassVar[int]
    N_GROUPED_FIELD_NUMBER: _ClassVar[int]
    N_GROUPS_FIELD_NUMBER: _ClassVar[int]
    RECALLS_FIELD_NUMBER: _ClassVar[int]
    N_LISTED_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    NULL_SCORES_FIELD_NUMBER: _ClassVar[int]
    SIZES_FIELD_NUMBER: _ClassVar[int]
    NEURONS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    RANKS_FIELD_NUMBER: _ClassVar[int]
    N_EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    CENTRALS_FIELD_NUMBER: _ClassVar[int]
    SIMILARITIES_FIELD_NUMBER: _ClassVar[int]
    provenance: Provenance
    timing: Timing
    continues: bool
    layers: _tensor_pb2.Tensor
    n_clusters: _tensor_pb2.Tensor
    n_grouped: _tensor_pb2.Tensor
    n_groups: _tensor_pb2.Tensor
    recalls: _tensor_pb2.Tensor
    n_listed: _tensor_pb2.Tensor
    groups: _tensor_pb2.Tensor
    texts: _containers.RepeatedScalarFieldContainer[str]
    scores: _tensor_pb2.Tensor
    null_scores: _tensor_pb2.Tensor
    sizes: _tensor_pb2.Tensor
    neurons: _tensor_pb2.Tensor
    labels: _tensor_pb2.Tensor
    ranks: _tensor_pb2.Tensor
    n_examples: _tensor_pb2.Tensor
    centrals: _tensor_pb2.Tensor
    similarities: _tensor_pb2.Tensor
    def __init__(self, provenance: _Optional[_Union[Provenance, _Mapping]] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ..., continues: bool = ..., layers: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., n_clusters: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., n_grouped: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., n_groups: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., recalls: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., n_listed: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., groups: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., texts: _Optional[_Iterable[str]] = ..., scores: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., null_scores: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., sizes: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., neurons: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., labels: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., ranks: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., n_examples: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., centrals: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., similarities: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...
