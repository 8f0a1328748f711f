package pyhook

import "pyhook/c10d"

// StockRefusal returns the reason for which DistributedDataParallel.register_comm_hook of this
// torch would refuse the hook, or "" if it would accept it. pyhook accepts more: any annotation,
// a parameter that is not called bucket, a callable without a name. It runs torch's own check.
// A hook that is to run in stock DDP too should return "".
func (h *PythonCommHook) StockRefusal() (string, error) {
	value, err := moduleValue("pyhook._runtime.check", "stock_refusal", h.hook)
	if err != nil {
		return "", h.failAt(-1, c10d.ErrLoad, err)
	}
	text, _ := value.(string)
	return text, nil
}
