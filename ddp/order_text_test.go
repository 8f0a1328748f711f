package ddp_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/ddp"
)

func TestAnOrderIsReadAsItIsWritten(t *testing.T) {
	for _, o := range []ddp.Order{ddp.OrderAuto, ddp.OrderSerial, ddp.OrderOrdered, ddp.OrderOverlapped} {
		got, err := ddp.ParseOrder(o.String())
		require.NoError(t, err)
		assert.Equal(t, o, got)
	}
	assert.Len(t, ddp.OrderNames(), 4)
	for _, text := range []string{"", "Serial", "nccl", "Order(7)"} {
		_, err := ddp.ParseOrder(text)
		assert.ErrorContains(t, err, "auto, serial, ordered, overlapped", text)
	}
}
