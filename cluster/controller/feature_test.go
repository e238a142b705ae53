package controller

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/fsm"
)

// The cluster switches to a feature level when its last node supports it: at once where it begins with such nodes.
func TestFeatureLevelIsRaised(t *testing.T) {
	s := newSim(t, 1)
	s.level = fsm.FeatureLevel
	s.join("n1")
	s.step()
	require.Equal(t, uint32(fsm.FeatureLevel), s.view().FeatureLevel(), "in the first step, before any shard takes calls")

	s = boot(t, 1, "n1", "n2", "n3")
	for _, node := range []string{"n1", "n2", "n3"} {
		require.Equal(t, uint32(1), s.view().FeatureLevel())
		s.level = fsm.FeatureLevel + 1 // newer than this controller
		s.join(node)
		s.settle()
	}
	require.Equal(t, uint32(fsm.FeatureLevel), s.view().FeatureLevel())
}
