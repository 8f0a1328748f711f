package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"pyhook/ddp"
)

// orderFlag is ddp.Order as a flag.
type orderFlag struct{ order *ddp.Order }

func (f orderFlag) String() string {
	if f.order == nil {
		return ddp.OrderAuto.String()
	}
	return f.order.String()
}

func (f orderFlag) Set(text string) (err error) {
	*f.order, err = ddp.ParseOrder(text)
	return err
}

func (f orderFlag) Type() string { return "order" }

// AddOrderFlag adds --order, which lists the names.
func AddOrderFlag(cmd *cobra.Command, order *ddp.Order, usage string, names []string) {
	cmd.Flags().Var(orderFlag{order}, "order", usage+": "+strings.Join(names, ", "))
	_ = cmd.RegisterFlagCompletionFunc("order", cobra.FixedCompletions(names, cobra.ShellCompDirectiveNoFileComp))
}
