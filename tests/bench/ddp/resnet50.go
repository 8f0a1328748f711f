package main

// resnet50 returns the shapes of torchvision's resnet50().parameters(): 161
// tensors, 25,557,032 elements.
func resnet50() [][]int64 {
	var shapes [][]int64
	conv := func(out, in, kernel int64) { shapes = append(shapes, []int64{out, in, kernel, kernel}) }
	norm := func(channels int64) { shapes = append(shapes, []int64{channels}, []int64{channels}) }
	conv(64, 3, 7)
	norm(64)
	in := int64(64)
	for stage, blocks := range []int{3, 4, 6, 3} {
		width := int64(64) << stage
		for block := range blocks {
			conv(width, in, 1)
			norm(width)
			conv(width, width, 3)
			norm(width)
			conv(4*width, width, 1)
			norm(4 * width)
			if block == 0 { // the shortcut's
				conv(4*width, in, 1)
				norm(4 * width)
			}
			in = 4 * width
		}
	}
	return append(shapes, []int64{1000, 2048}, []int64{1000})
}
