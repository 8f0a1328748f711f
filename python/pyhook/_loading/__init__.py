"""From a text such as ``"my.hooks:fp16"`` to a hook. Nothing here imports torch."""
