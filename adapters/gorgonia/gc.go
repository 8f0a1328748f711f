package gorgoniaddp

// In the version that go.mod requires, this knows that today's Go moves no memory either. With the
// version that it asks for itself, gorgonia.org/tensor panics as a program starts.
import _ "go4.org/unsafe/assume-no-moving-gc"
