"""The GPU half of each kernel: Triton where a loop is ours, torch where it is not; one file a kernel, under its name.

Every function has the signature and the meaning of its namesake in `polysem.kernels`, which hands CUDA tensors here,
and checks its arguments before it launches anything. Under TRITON_INTERPRET=1 they take CPU tensors.
"""
