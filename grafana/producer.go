package grafana

func producer() Dashboard {
	return dashboard("producer", "Producers",
		"What is written, how fast it is acknowledged, and which writes fail.",
		[]Variable{topicVariable(), nodeVariable()},
		graph("Throughput by topic", "Records committed per second. A topic that falls to 0 while its producers run has no leader, or refuses their writes.",
			style{unit: recordsPerSecond, steps: moving(), noValue: "No topics"},
			query{rate("topic", "streamhouse_producer_records_total"+ofTopic), "{{topic}}"}),
		graph("Bytes by topic", "Bytes of keys, values and headers committed per second, before compression and replication.",
			style{unit: bytesPerSecond, steps: moving(), noValue: "No topics"},
			query{rate("topic", "streamhouse_producer_bytes_total"+ofTopic), "{{topic}}"}),
		graph("Latency percentiles", "Time from a request's arrival at the leader to its acknowledgement; 0 while nothing is written. It has the disks of a majority in it, and the object store where producers ask for acks=durable.",
			style{unit: seconds, steps: grade(from(0.1, "orange"), from(1, "red")), noValue: "No topics"},
			quantiles("streamhouse_producer_latency_seconds", ofTopic)...),
		graph("Batch sizes", "Records per committed batch, on average and at the 50th, 95th and 99th percentile; 0 while nothing is written. Small batches cost throughput: let producers linger.",
			style{unit: count, steps: moving(), noValue: "No topics"},
			append(quantiles("streamhouse_producer_batch_size", ofTopic),
				query{average("", "streamhouse_producer_batch_size", ofTopic), "average"})...),
		wide(gridWidth, graph("Error rates", "Produce requests that were refused or failed per second, by kind. throttled asks producers to slow down, unavailable has no leader, outcome_unknown may have been written, not_found has topics that do not exist.",
			style{unit: opsPerSecond, steps: grade(from(0.1, "orange"), from(1, "red"))},
			query{rate("error_type", "streamhouse_producer_errors_total"+ofTopic), "{{error_type}}"})),
	)
}
