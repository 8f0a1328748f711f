// Package gpu_test runs hooks on buckets in a GPU's memory, over nccl, beside
// PyTorch's own Reducer on the same GPU. Without a GPU every test is skipped,
// unless PYHOOK_TEST_GPU is set. tests/gpu/run.sh runs them, and the benchmark.
package gpu_test
