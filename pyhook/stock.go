package pyhook

import (
	"pyhook/c10d"
	"pyhook/cbridge"
)

// StockRefusal says why DistributedDataParallel.register_comm_hook of this torch
// would refuse the hook, which pyhook takes: an annotation that is not exactly
// the one it wants, a parameter that is not called bucket, a callable without a
// name. It asks torch's own check. "": it would not. A hook that is to run in
// stock DDP too, or is being moved from there, had better give "".
func (h *PythonCommHook) StockRefusal() (string, error) {
	judge, err := cbridge.Import("pyhook._judge")
	if err != nil {
		return "", h.failAt(-1, c10d.ErrLoad, err)
	}
	defer judge.Close()
	value, err := judge.CallValue("stock_refusal", h.hook)
	if err != nil {
		return "", h.failAt(-1, c10d.ErrLoad, err)
	}
	text, _ := value.(string)
	return text, nil
}
