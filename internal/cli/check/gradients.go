package check

import "pyhook/tensor"

// gradientScale is the size of the seeded gradients: small as real ones are,
// and far from float16's limits.
const gradientScale = 0.01

// mix is splitmix64's finaliser (Steele, Lea, Flood 2014): each bit of x
// changes half of the result's.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// stream names a sequence of numbers; rank -1 is what all ranks share.
func stream(seed uint64, step, bucket, rank int) uint64 {
	key := mix(seed)
	for _, part := range []int{step, bucket, rank} {
		key = mix(key ^ uint64(part+1))
	}
	return key
}

// uniform is number i of a stream, in [-1, 1).
func uniform(stream uint64, i int) float64 {
	return float64(mix(stream+uint64(i))>>11)/(1<<52) - 1
}

// fillGradients makes a rank's gradients of a bucket. It is a pure function, so every rank knows
// every other's gradients: two thirds common to all ranks, as gradients of one model on different
// data are alike, and one third the rank's own.
func fillGradients(into []float64, seed uint64, step, bucket, rank int) {
	common, own := stream(seed, step, bucket, -1), stream(seed, step, bucket, rank)
	for i := range into {
		into[i] = gradientScale * (uniform(common, i) + uniform(own, i)/2)
	}
}

// exactMean is the mean over the ranks of the gradients as they are in dtype,
// summed in float64.
func exactMean(elements int64, dtype tensor.DType, seed uint64, step, bucket, ranks int) ([]float64, error) {
	wide, err := tensor.New(tensor.Float64, elements)
	if err != nil {
		return nil, err
	}
	defer wide.Close()
	rounded, err := tensor.New(dtype, elements)
	if err != nil {
		return nil, err
	}
	defer rounded.Close()
	values, err := tensor.Slice[float64](wide)
	if err != nil {
		return nil, err
	}
	mean := make([]float64, elements)
	for rank := range ranks {
		fillGradients(values, seed, step, bucket, rank)
		if err := tensor.Copy(rounded, wide); err != nil {
			return nil, err
		}
		if err := tensor.Copy(wide, rounded); err != nil {
			return nil, err
		}
		for i, v := range values {
			mean[i] += v
		}
	}
	for i := range mean {
		mean[i] /= float64(ranks)
	}
	return mean, nil
}
