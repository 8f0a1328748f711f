package ddp

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"

	"pyhook/c10d"
	"pyhook/internal/gather"
)

// signature is what all ranks must have alike.
type signature struct {
	Name  string
	Shape []int64
	DType string
}

func signatures(params []*c10d.Parameter) []signature {
	list := make([]signature, len(params))
	for i, p := range params {
		if p == nil { // an error of this rank that all shall see
			p = &c10d.Parameter{Name: "nil"}
		}
		list[i] = signature{p.Name, append([]int64{}, p.Shape...), kind(p)}
	}
	return list
}

// kind is the dtype, whether the gradient is sparse, and on what kind of device it is.
func kind(p *c10d.Parameter) string {
	text := p.DType.String()
	if p.Sparse {
		text = "sparse " + text
	}
	if device := p.GradientDevice(); !device.IsCPU() {
		text += " on " + device.Kind()
	}
	return text
}

// VerifyParameters checks that all ranks of the group have the same parameters
// in the same order: names, shapes, dtypes, sparse gradients, kinds of devices. A collective. Every rank gets the
// error (a *ParameterError that is ErrMismatch) if any two differ, with the
// first difference to rank 0's list. torch's _verify_param_shape_across_processes.
func VerifyParameters(ctx context.Context, group c10d.ProcessGroup, params []*c10d.Parameter) error {
	return verify(ctx, group, params, false)
}

// verify also checks, of ranks that make a Reducer, that all vote or none.
func verify(ctx context.Context, group c10d.ProcessGroup, params []*c10d.Parameter, votes bool) error {
	if err := checkGroup(group); err != nil {
		return err
	}
	mine, err := json.Marshal(signatures(params))
	if err != nil {
		return err
	}
	if votes {
		mine = append(mine, "votes"...)
	}
	digest := sha256.Sum256(mine)
	digests, err := c10d.AllGatherBytes(ctx, group, digest[:])
	if err != nil {
		return fmt.Errorf("verifying the parameter lists: %w", err)
	}
	if len(slices.CompactFunc(digests, bytes.Equal)) == 1 {
		return nil
	}
	lists, err := gather.JSON(ctx, group, signatures(params)) // only now the lists themselves
	if err != nil {
		return fmt.Errorf("verifying the parameter lists: %w", err)
	}
	if err := mismatch(group.Rank(), lists); err != nil {
		return err
	}
	return &ParameterError{Rank: group.Rank(), Names: []string{"Options.Agreement"}, Code: ErrMismatch,
		Detail: "some ranks would vote and some would not", Hint: "give every rank the same ddp.Options"}
}

func mismatch(rank int, lists [][]signature) error {
	for other := 1; other < len(lists); other++ {
		name, detail := firstDifference(lists[0], lists[other], other)
		if detail != "" {
			return &ParameterError{Rank: rank, Names: []string{name}, Code: ErrMismatch, Detail: detail,
				Hint: "every rank must build the same model, and list its parameters in one order (a Go map has none)"}
		}
	}
	return nil
}

func firstDifference(want, got []signature, rank int) (name, detail string) {
	for i := range min(len(want), len(got)) {
		w, g := want[i], got[i]
		if w.Name != g.Name || w.DType != g.DType || !slices.Equal(w.Shape, g.Shape) {
			return w.Name, fmt.Sprintf("parameter %d is %s %v %s on rank 0 and %s %v %s on rank %d", i, w.Name, w.Shape, w.DType, g.Name, g.Shape, g.DType, rank)
		}
	}
	if len(want) == len(got) {
		return "", ""
	}
	longer := want
	if len(got) > len(want) {
		longer = got
	}
	return longer[min(len(want), len(got))].Name, fmt.Sprintf("rank 0 has %d parameters and rank %d has %d", len(want), rank, len(got))
}
