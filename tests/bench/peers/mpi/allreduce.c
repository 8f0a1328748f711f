// The mean over two ranks by MPI_Allreduce, as orders come.
//
// usage: allreduce ORDERS ANSWERS    two FIFOs, without the rank that is put behind ORDERS: a rank
//                                    that waits inside MPI would keep a core busy
//
// An order is a line "BYTES CALLS". Rank 0 answers each with a line of JSON, a side.Answer.
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int smaller(const void *a, const void *b) {
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static float value(long i, int rank) {
	return (float)(i % 1000) / 1024 + (float)(i % 7) / 65536 + (float)rank;
}

static void mean(float *bucket, long n, int size) {
	MPI_Allreduce(MPI_IN_PLACE, bucket, (int)n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
	for (long i = 0; i < n; i++) bucket[i] /= (float)size;
}

// wrong counts the elements that are not the mean of ranks 0 and 1.
static long wrong(const float *bucket, long n) {
	long count = 0;
	for (long i = 0; i < n; i++) count += bucket[i] != (value(i, 0) + value(i, 1)) / 2;
	return count;
}

int main(int argc, char **argv) {
	int rank, size;
	if (argc != 3) return 2;
	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &size);
	char name[4096];
	snprintf(name, sizeof name, "%s.%d", argv[1], rank);
	FILE *orders = fopen(name, "r"), *answers = fopen(argv[2], "w");
	if (!orders || !answers || size != 2) {
		fprintf(stderr, "allreduce: no FIFOs, or not two ranks\n");
		MPI_Abort(MPI_COMM_WORLD, 1);
	}
	long bytes, calls;
	while (fscanf(orders, "%ld %ld", &bytes, &calls) == 2) {
		long n = bytes / (long)sizeof(float);
		float *bucket = malloc((size_t)bytes);
		double *ns = malloc(((size_t)calls + 1) * sizeof *ns);
		if (!bucket || !ns) MPI_Abort(MPI_COMM_WORLD, 1);
		for (long i = 0; i < n; i++) bucket[i] = value(i, rank);
		mean(bucket, n, size);
		double wall = now();
		for (long i = 0; i < calls; i++) {
			double start = now();
			mean(bucket, n, size);
			ns[i] = now() - start;
		}
		wall = now() - wall;
		qsort(ns, (size_t)calls, sizeof *ns, smaller);
		long bad = wrong(bucket, n);
		if (rank == 0) {
			fprintf(answers, "{\"MedianNS\":%.0f,\"P99NS\":%.0f,\"WallNS\":%.0f,\"Error\":\"", calls ? ns[calls / 2] : 0, calls ? ns[calls * 99 / 100] : 0, wall);
			if (bad) fprintf(answers, "%ld elements are not the mean", bad);
			fprintf(answers, "\"}\n");
			fflush(answers);
		}
		free(bucket);
		free(ns);
	}
	MPI_Finalize();
	return 0;
}
