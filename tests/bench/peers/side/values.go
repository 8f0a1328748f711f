package side

import (
	"errors"
	"fmt"

	"pyhook/tensor"
)

// fill writes a rank's gradients: half precision rounds most of them, and single precision none of
// their sums.
func fill(bucket []float32, rank int) {
	for i := range bucket {
		bucket[i] = float32(i%1000)/1024 + float32(i%7)/65536 + float32(rank)
	}
}

// expect makes of a rank's gradients what the hook makes of them.
func expect(hook string, values []float32, rank int) error {
	switch hook {
	case "noop":
		return nil
	case "fp16":
		return halve(values)
	case "negated":
		for i := range values {
			values[i] = -values[i]
		}
		return nil
	case "allreduce": // of ranks 0 and 1
		for i := range values {
			values[i] += 0.5 - float32(rank)
		}
		return nil
	}
	return fmt.Errorf("no hook %s: there are noop, fp16, negated, allreduce", hook)
}

// halve rounds values to half precision.
func halve(values []float32) error {
	single, err := tensor.New(tensor.Float32, int64(len(values)))
	if err != nil {
		return err
	}
	defer single.Close()
	half, err := tensor.New(tensor.Float16, int64(len(values)))
	if err != nil {
		return err
	}
	defer half.Close()
	same, err := tensor.Slice[float32](single)
	if err != nil {
		return err
	}
	copy(same, values)
	err = errors.Join(tensor.Copy(half, single), tensor.Copy(single, half))
	copy(values, same)
	return err
}
