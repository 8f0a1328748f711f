package gomlxddp

import (
	"errors"
	"fmt"
	"io"

	"github.com/gomlx/gomlx/pkg/core/tensors"
	"github.com/gomlx/gomlx/pkg/ml/train"
)

// Shard returns the dataset of one rank: of each size batches that ds gives, the one at the rank's
// position. Batches at the end that are fewer than the ranks are left out, so that all ranks have
// as many; a dataset with fewer batches than that altogether is an error on every rank. ds must
// give the same batches in the same order on every rank (shuffle with one seed), and each rank
// reads all of them.
func Shard(ds train.Dataset, rank, size int) train.Dataset {
	return &shard{Dataset: ds, rank: rank, size: size}
}

type shard struct {
	train.Dataset
	rank, size int
	given      int // batches since Reset
}

// Reset implements train.Dataset.
func (s *shard) Reset() {
	s.given = 0
	s.Dataset.Reset()
}

// ShortName implements train.HasShortName.
func (s *shard) ShortName() string {
	if named, ok := s.Dataset.(train.HasShortName); ok {
		return named.ShortName()
	}
	return s.Name()[:min(3, len(s.Name()))]
}

// IsOwnershipTransferred implements train.DatasetCustomOwnership.
func (s *shard) IsOwnershipTransferred() bool {
	custom, ok := s.Dataset.(train.DatasetCustomOwnership)
	return !ok || custom.IsOwnershipTransferred()
}

// Yield implements train.Dataset.
func (s *shard) Yield() (spec any, inputs, labels []*tensors.Tensor, err error) {
	if s.rank < 0 || s.rank >= s.size {
		return nil, nil, nil, fmt.Errorf("gomlxddp: Shard: there is no rank %d of %d", s.rank, s.size)
	}
	for k := range s.size {
		otherSpec, x, y, err := s.Dataset.Yield()
		if errors.Is(err, io.EOF) && s.given == 0 {
			err = fmt.Errorf("gomlxddp: Shard: dataset %s has %d batches, and there are %d ranks", s.Name(), k, s.size)
		}
		if err != nil { // io.EOF as it is: GoMLX compares it
			if failed := s.free(inputs, labels); failed != nil {
				err = errors.Join(err, failed)
			}
			return nil, nil, nil, err
		}
		if k == s.rank {
			spec, inputs, labels = otherSpec, x, y
		} else if err := s.free(x, y); err != nil {
			return nil, nil, nil, err
		}
	}
	s.given++
	return spec, inputs, labels, nil
}

// free finalizes a batch that nobody gets.
func (s *shard) free(inputs, labels []*tensors.Tensor) (err error) {
	if !s.IsOwnershipTransferred() {
		return nil
	}
	for _, list := range [][]*tensors.Tensor{inputs, labels} {
		for _, t := range list {
			err = errors.Join(err, t.FinalizeAll())
		}
	}
	return err
}
