package tensorconv

// MaxDims is for tests.
const MaxDims = maxDims
