package grafana

import "strings"

func overview() Dashboard {
	return dashboard("overview", "Overview",
		"Is the cluster well: what comes in, what goes out, how late, and what is refused.",
		[]Variable{topicVariable(), groupVariable(), nodeVariable()},
		graph("Producer throughput", "Records committed per second, by the leaders on the chosen nodes. A fall to 0 while producers run means that writes do not commit.",
			style{unit: recordsPerSecond, steps: moving(), noValue: "No topics"},
			query{rate("", "streamhouse_producer_records_total"+ofTopic), "records"}),
		graph("Consumer throughput", "Records served to consumers per second, by the chosen nodes. It is above the producers' rate where several groups read, or one catches up.",
			style{unit: recordsPerSecond, steps: moving(), noValue: "No topics"},
			query{rate("", "streamhouse_consumer_records_total"+ofTopicGroup), "records"}),
		graph("Consumer lag", "Records that each group has still to read, over all partitions of a topic. A line that climbs means that a group is slower than its producers, or dead.",
			style{unit: count, steps: grade(from(1000, "orange"), from(10000, "red")), noValue: "No group has committed offsets"},
			query{"sum by (topic, consumer_group) (" + lagByPartition(`{topic=~"$topic", consumer_group=~"$group"}`) + ")", "{{topic}} / {{consumer_group}}"}),
		graph("Producer latency", "Time from a request's arrival at the leader to its acknowledgement; 0 while nothing is written.",
			style{unit: seconds, steps: grade(from(0.1, "orange"), from(1, "red")), noValue: "No topics"},
			quantiles("streamhouse_producer_latency_seconds", ofTopic)...),
		graph("Partitions led per agent", "Partitions whose leader is on the node. Much more on one node than on the others means uneven load; 0 is right for a node that is drained.",
			style{unit: count, steps: []Step{{Color: "orange"}, from(1, "green")}},
			query{`count by (node) (streamhouse_segment_writes_total` + ofTopic + `) or 0 * sum by (node) (streamhouse_uptime_seconds` + ofNode + `)`, "{{node}}"}),
		graph("Error rates", "Produce and consume requests that failed, and requests that the object store was given up for, per second. What clients canceled, as they do when they close, is left out. The other dashboards say of which kind.",
			style{unit: opsPerSecond, steps: grade(from(0.1, "orange"), from(1, "red"))},
			query{rate("", "streamhouse_producer_errors_total"+notCanceled(ofTopic)), "produce"},
			query{rate("", "streamhouse_consumer_errors_total"+notCanceled(ofTopicGroup)), "consume"},
			query{rate("", `streamhouse_s3_errors_total{error_type="failed", node=~"$node"}`), "object store"}),
		graph("Average batch size", "Records per committed batch; 0 while nothing is written. Small batches cost throughput: let producers linger.",
			style{unit: count, steps: moving(), noValue: "No topics"},
			query{average("", "streamhouse_producer_batch_size", ofTopic), "records per batch"}),
	)
}

// lagByPartition counts a partition once, also at the moment when a group has a new coordinator.
func lagByPartition(labels string) string {
	return "max by (topic, partition, consumer_group) (streamhouse_consumer_lag" + labels + ")"
}

// notCanceled narrows labels to requests that failed for another reason than that their client gave them up.
func notCanceled(labels string) string {
	return strings.TrimSuffix(labels, "}") + `, error_type!="canceled"}`
}
