package main

import (
	"testing"

	"pyhook/internal/demo/mnist/mnisttest"
)

func TestMnist(t *testing.T) { mnisttest.Run(t) }
