package check

import (
	"fmt"
	"strings"
)

// farOff is the relative rms error from which on a result has little to do with the mean.
// The gradients of one rank alone are off by 0.33 with 2 ranks, and by more with more: two
// thirds of them are common to all (gradients.go). 8 bits a number are off by 0.01.
const farOff = 0.25

// farFromTheMean warns of results that keep the contract and are nowhere near the mean,
// where nobody asked for a bound: what a hook makes of a future in another form than it
// expects is alike on all ranks, and wrong.
func farFromTheMean(p *checkPlan, r *checkReport) string {
	if !r.OK || p.MaxError > 0 || strings.Contains(r.HookName, ".powerSGD_hook.") {
		return "" // random gradients have no low rank: check's help says so
	}
	worst, bucket := 0.0, -1
	for i, b := range r.Buckets {
		if b.ErrorWorst != nil && b.ErrorWorst.RMS > max(farOff, worst) {
			worst, bucket = b.ErrorWorst.RMS, i
		}
	}
	if bucket < 0 {
		return ""
	}
	forms := ", does it index the future of an all_gather as NCCL gives it (--nccl-futures)"
	if p.NCCLFutures {
		forms = ""
	}
	return fmt.Sprintf("bucket %d is nowhere near the exact mean: its relative rms error is %.2g. If the hook does not mean to compress so strongly: "+
		"does it divide by the number of ranks%s? --max-error 0.1 makes such a result a failure", bucket, worst, forms)
}
