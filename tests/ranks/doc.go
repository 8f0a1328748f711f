// Package ranks runs a function of a test binary on N real ranks: processes of
// their own, started by launch.Spawn under torchrun's contract.
//
//	func TestMain(m *testing.M) {
//	    ranks.Main(m, map[string]ranks.Func{"sum": sum})
//	}
//
//	func sum(ctx context.Context, r *ranks.Rank) error { // runs on every rank
//	    ...
//	    return r.Report(total)
//	}
//
//	func TestSum(t *testing.T) {
//	    job := ranks.Run(t, 2, "sum", []int{1, 2, 3})   // 3: any JSON, read with r.Args
//	    ranks.Result[int](t, job, 1)                    // what rank 1 reported
//	}
//
// Run fails the test with the failing rank's message, traceback and output.
// Start with Options is for tests of failures: it has Wait, Pids, a timeout and
// an environment. Ranks and test share a folder, Rank.Dir and Job.Dir, which
// is removed with the test.
//
// Nothing hangs and nothing is left behind: a rank ends itself at its timeout (it
// prints every goroutine first), launch stops its peers when one fails, and all
// of them end with the test or with its process.
//
// Each rank has one thread for arithmetic (OMP_NUM_THREADS=1), as the order of
// a sum depends on it, and gloo on the loopback interface.
package ranks
