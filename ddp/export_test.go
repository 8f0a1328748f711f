package ddp

import "pyhook/c10d"

// UseMemory has the memory of all gradients on the CPU made by f.
func UseMemory(f func(c10d.ProcessGroup) (c10d.DeviceMemory, error)) { memoryOfAll = f }
