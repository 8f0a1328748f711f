package check

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"pyhook/c10d"
	"pyhook/tensor"
)

// judge compares the result of the Reducer's bucket index with the exact mean, and
// takes its digest, for each bucket of the plan that is in it.
func (p *phase) judge(index int, bucket *c10d.GradBucket, result *tensor.Tensor) error {
	if want := bucket.Buffer().Len(); result.Len() != want {
		return fmt.Errorf("%w: %d elements for a bucket of %d", c10d.ErrShort, result.Len(), want)
	}
	plain, err := tensor.New(result.DType(), result.Len())
	if err != nil {
		return err
	}
	defer plain.Close()
	if err := tensor.Copy(plain, result); err != nil { // it may have strides
		return err
	}
	raw, err := tensor.RawBytes(plain)
	if err != nil {
		return err
	}
	wide, err := tensor.New(tensor.Float64, result.Len())
	if err != nil {
		return err
	}
	defer wide.Close()
	if err := tensor.Copy(wide, plain); err != nil {
		return err
	}
	values, err := tensor.Slice[float64](wide)
	if err != nil {
		return err
	}
	begins := map[int]int64{} // of each parameter in the result
	at := int64(0)
	for _, i := range p.layout[index] {
		begins[i] = at
		at += p.model.length(i)
	}
	own := result.Data() == bucket.Buffer().Data()
	for number, b := range p.model.buckets {
		if _, here := begins[b.params[0]]; !here {
			continue
		}
		record := &p.record.Calls[p.step][number]
		record.OwnMemory, record.DType = own, result.DType().String()
		if err := p.judgeBucket(number, b, begins, values, raw, record); err != nil {
			return err
		}
	}
	return nil
}

// judgeBucket judges one bucket of the plan, whose parameters begin there in the
// result.
func (p *phase) judgeBucket(number int, b *plannedBucket, begins map[int]int64, values []float64, raw []byte, record *callRecord) error {
	size := int64(len(raw)) / max(1, int64(len(values)))
	got := make([]float64, 0, len(b.values))
	sum := sha256.New()
	sum.Write([]byte(record.DType + "\n"))
	for _, i := range b.params {
		begin, end := begins[i], begins[i]+p.model.length(i)
		sum.Write(raw[begin*size : end*size])
		got = append(got, values[begin:end]...)
	}
	record.Digest = hex.EncodeToString(sum.Sum(nil))
	dtype := p.model.params[b.params[0]].DType
	mean, err := exactMean(int64(len(got)), dtype, p.run.plan.Seed, p.step, number, p.run.group.Size())
	if err != nil {
		return err
	}
	record.Error, record.NonFinite = compare(got, mean)
	return nil
}
