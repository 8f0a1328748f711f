// Package lossplot draws training losses, a line for each run or hook, into one PNG.
//
// What lives here: how a chart looks and how its file is replaced. What must not:
// where losses come from.
//
// Curves of equivalent hooks lie on each other, so series differ by colour (Okabe
// and Ito's, told apart by the colour-blind too) and by dash, and each is drawn
// thinner than the one under it: what is below shows at the edges and in the gaps.
// A mini-batch's loss jumps about; long series are drawn smoothed, with the raw
// values faint behind. The legend has a strip of its own under the axes and can
// cover no data.
package lossplot
