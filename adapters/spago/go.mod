module pyhook/adapters/spago

go 1.26.0

require (
	github.com/nlpodyssey/spago v1.1.0
	github.com/stretchr/testify v1.12.1
	pyhook v0.0.0
)

require (
	github.com/google/flatbuffers v23.5.26+incompatible // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
	golang.org/x/sys v0.49.0 // indirect
)

replace pyhook => ../..
