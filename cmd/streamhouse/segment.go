package main

import (
	"github.com/spf13/cobra"
)

func (a *app) segmentCommand() *cobra.Command {
	return group("segment", "Look into the object store")
}
