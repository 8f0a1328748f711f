package main

import (
	"fmt"
	"math"
)

const (
	kib = 1 << 10
	mib = 1 << 20
)

// benchCase is one line of the table.
type benchCase struct {
	Hook   string // of pyhook's short names
	Bytes  int64  // of the bucket's float32 buffer
	Params int
	World  int
	Worker bool // see workerCases
}

func (c benchCase) name() string {
	name := fmt.Sprintf("%s/%s/%d", c.Hook, size(c.Bytes), c.Params)
	if c.Worker {
		name = "worker/" + name
	}
	if c.World > 1 {
		name += fmt.Sprintf("/%dranks", c.World)
	}
	return name
}

func size(bytes int64) string {
	if bytes >= mib {
		return fmt.Sprintf("%dMiB", bytes/mib)
	}
	return fmt.Sprintf("%dKiB", bytes/kib)
}

func allCases() []benchCase {
	var cases []benchCase
	for _, hook := range []string{"noop", "allreduce", "fp16", "powersgd"} {
		for _, bytes := range []int64{4 * kib, 256 * kib, 25 * mib, 256 * mib} {
			for _, params := range []int{1, 64, 512} {
				cases = append(cases, benchCase{hook, bytes, params, 1, false})
			}
		}
	}
	for _, hook := range []string{"allreduce", "fp16", "powersgd"} {
		for _, bytes := range []int64{4 * kib, 25 * mib} {
			cases = append(cases, benchCase{hook, bytes, 64, 2, false})
		}
	}
	return cases
}

// blocks returns how many blocks of how many calls each side runs. It is fixed,
// since all ranks must do the same, and a case takes a few seconds.
func (c benchCase) blocks(scale float64) (blocks, calls int) {
	switch {
	case c.Hook == "noop":
		blocks, calls = 500, 200
	case c.Bytes >= 256*mib:
		blocks, calls = 7, 1
	case c.Bytes >= 25*mib:
		blocks, calls = 40, 1
	case c.Hook == "powersgd":
		blocks, calls = 100, 2
	default:
		blocks, calls = 100, 20
	}
	return max(3, int(math.Round(float64(blocks)*scale))), calls
}

// shape divides the buffer evenly into matrices as square as can be, since
// PowerSGD compresses matrices only.
func (c benchCase) shape() []int64 {
	n := c.Bytes / 4 / int64(c.Params)
	rows := int64(math.Sqrt(float64(n)))
	for n%rows != 0 {
		rows--
	}
	return []int64{rows, n / rows}
}
