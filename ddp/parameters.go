package ddp

import (
	"fmt"

	"pyhook/c10d"
	"pyhook/tensor"
)

// checkParameters says which of the trainer's parameters cannot be reduced, whatever the hook.
func checkParameters(rank int, params []*c10d.Parameter) error {
	seen := map[*c10d.Parameter]int{}
	for i, p := range params {
		if p == nil {
			return fmt.Errorf("ddp, rank %d: parameter %d is nil", rank, i)
		}
		bad := func(hint, detail string, args ...any) error {
			return &ParameterError{Rank: rank, Names: []string{p.Name}, Code: ErrParameter, Detail: fmt.Sprintf(detail, args...), Hint: hint}
		}
		if before, twice := seen[p]; twice {
			return bad("list a parameter that the model uses twice once", "it is parameter %d and %d of the list", before, i)
		}
		seen[p] = i
		if p.DType == tensor.Invalid {
			return bad("set c10d.Parameter.DType to that of its gradients", "it has no DType")
		}
		if !hasGradients(p.DType) {
			return bad("leave what is not trained out of the list; gradients of few bits are given as float16 or bfloat16, which a hook may compress",
				"it is of %s, and gradients are of floating-point or complex numbers, of 16 bits or more", p.DType)
		}
	}
	return nil
}

// hasGradients reports whether gradients of a dtype can be averaged, by torch too.
func hasGradients(d tensor.DType) bool {
	switch d {
	case tensor.Float64, tensor.Float32, tensor.Float16, tensor.BFloat16, tensor.Complex64, tensor.Complex128:
		return true
	}
	return false
}
