package fsm

import metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"

// Superfluous reports whether an object that the metadata does not list surely is not needed: all of its segments are of
// deleted partitions, or of offsets that the manifest has elsewhere or has let go of. That the metadata knows nothing of a
// partition or of offsets proves nothing: it may be the metadata that has lost something.
func (v *View) Superfluous(footer *metav1.ObjectFooter) bool {
	if footer.GetClusterId() != v.clusterID {
		return false
	}
	for _, s := range footer.GetSegments() {
		id := s.GetEntry().GetPartitionId()
		p, ok := v.Partition(id)
		switch {
		case !ok && id < v.nextPartition: // ids are given out in order, so it was deleted
		case ok && string(p.TopicUUID[:]) == string(s.GetTopicUuid()) && s.GetEntry().GetEndOffset() <= p.NextBase():
		default:
			return false
		}
	}
	return true
}
