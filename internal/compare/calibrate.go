package compare

import (
	"context"
	"time"

	"pyhook/c10d"
	"pyhook/internal/quantile"
	"pyhook/tensor"
)

// The all-reduces that calibrate, in bytes, and how often.
const (
	fewBytes, fewTimes   = 1 << 10, 60
	manyBytes, manyTimes = 8 << 20, 9
)

// calibrate measures all-reduces of two sizes over the group, and solves for the model's constants.
func (m *measuring) calibrate(ctx context.Context) (Calibration, error) {
	few, err := m.allReduce(ctx, fewBytes, fewTimes)
	if err != nil {
		return Calibration{}, err
	}
	many, err := m.allReduce(ctx, manyBytes, manyTimes)
	if err != nil {
		return Calibration{}, err
	}
	return calibrate(m.group.Size(), fewBytes, manyBytes, few, many), nil
}

// allReduce returns the median time of an all-reduce of so many bytes of float32.
func (m *measuring) allReduce(ctx context.Context, bytes int64, times int) (float64, error) {
	t, err := tensor.New(tensor.Float32, bytes/4)
	if err != nil {
		return 0, err
	}
	defer t.Close()
	seconds := make([]float64, times)
	for i := range seconds {
		if err := m.group.Barrier(ctx); err != nil {
			return 0, err
		}
		start := time.Now()
		future, err := m.group.AllReduce(ctx, t, c10d.Sum)
		if err != nil {
			return 0, err
		}
		_, err = future.Wait(ctx)
		future.Close()
		if err != nil {
			return 0, err
		}
		seconds[i] = time.Since(start).Seconds()
	}
	return quantile.Median(seconds), nil
}
