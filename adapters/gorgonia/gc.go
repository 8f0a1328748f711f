package gorgoniaddp

// In the version that go.mod requires, this knows that today's Go moves no memory either: gorgonia.org/
// tensor panics at the start of a program with the version that it asks for itself.
import _ "go4.org/unsafe/assume-no-moving-gc"
