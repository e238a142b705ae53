package grafana

const (
	ofTopic      = `{topic=~"$topic", node=~"$node"}`
	ofTopicGroup = `{topic=~"$topic", consumer_group=~"$group", node=~"$node"}`
	ofPartition  = `{topic=~"$topic", partition=~"$partition", node=~"$node"}`
	ofNode       = `{node=~"$node"}`
	ofProcess    = `{job="streamhouse", node=~"$node"}`
)

func topicVariable() Variable {
	return variable("topic", "Topics of the cluster. All includes requests for topics that do not exist.",
		`label_values(streamhouse_partitions_total, topic)`)
}

func groupVariable() Variable {
	return variable("group", "Consumer groups that read these topics, or have committed offsets of them. All includes reads without a group.",
		`label_values({__name__=~"streamhouse_consumer_records_total|streamhouse_consumer_lag", topic=~"$topic"}, consumer_group)`)
}

func nodeVariable() Variable {
	return variable("node", "Nodes that Prometheus scrapes, by their ids.", `label_values(streamhouse_uptime_seconds, node)`)
}
