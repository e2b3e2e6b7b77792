"""Why a search found a cluster, in words."""

from polysem.proto.questions.search import FoundCluster


def why(one: FoundCluster) -> str:
    """Return what of the cluster is what was looked for; words may stand in different examples."""
    if one.found_by == "key":
        return f"{one.share:.0%} of its key tokens"
    if one.found_by == "name":
        return "in its name"
    return f"in {one.n_with} of {one.n_texts} examples" if one.n_with else "its words in different examples"
