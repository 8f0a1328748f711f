package ddp

import (
	"fmt"
	"strings"
)

// orders are all of them, as flags list them.
var orders = []Order{OrderAuto, OrderSerial, OrderOrdered, OrderOverlapped}

// OrderNames are the texts that ParseOrder takes.
func OrderNames() []string {
	names := make([]string, len(orders))
	for i, o := range orders {
		names[i] = o.String()
	}
	return names
}

// ParseOrder is Order.String backwards: auto, serial, ordered, overlapped.
func ParseOrder(text string) (Order, error) {
	for _, o := range orders {
		if o.String() == text {
			return o, nil
		}
	}
	return OrderAuto, fmt.Errorf("ddp: %q is no order of buckets: it is one of %s", text, strings.Join(OrderNames(), ", "))
}
