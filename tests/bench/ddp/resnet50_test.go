package main

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestShapesAreResNet50s(t *testing.T) {
	shapes := resnet50()
	total := int64(0)
	for _, shape := range shapes {
		n := int64(1)
		for _, s := range shape {
			n *= s
		}
		total += n
	}
	assert.Len(t, shapes, 161)
	assert.EqualValues(t, 25_557_032, total)
}
