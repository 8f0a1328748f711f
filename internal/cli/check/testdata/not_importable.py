import a_module_that_nobody_has

hook = a_module_that_nobody_has.hook
