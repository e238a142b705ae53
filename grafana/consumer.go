package grafana

func consumer() Dashboard {
	lagOf := `{topic=~"$topic", consumer_group=~"$group", partition=~"$partition"}`
	lagSteps := grade(from(1000, "orange"), from(10000, "red"))
	return dashboard("consumer", "Consumers",
		"What is read, how far groups are behind, and why.",
		[]Variable{
			topicVariable(), groupVariable(),
			variable("partition", "Partitions that groups have committed offsets of; for the panels that show lag.",
				`label_values(streamhouse_consumer_lag{topic=~"$topic", consumer_group=~"$group"}, partition)`),
			nodeVariable(),
		},
		graph("Throughput by topic and group", "Records served to consumers per second, by the chosen nodes. What is read without a group has no name behind the topic's.",
			style{unit: recordsPerSecond, steps: moving(), noValue: "No topics"},
			query{rate("topic, consumer_group", "streamhouse_consumer_records_total"+ofTopicGroup), "{{topic}} / {{consumer_group}}"}),
		graph("Lag by partition", "High watermark minus committed offset, also while all consumers of the group are dead. One partition alone that climbs has a stuck consumer or a hot key; all of them mean too few consumers.",
			style{unit: count, steps: lagSteps, noValue: "No group has committed offsets"},
			query{lagByPartition(lagOf), "{{topic}}-{{partition}} / {{consumer_group}}"}),
		gauge("Max lag", "Records that the slowest group has still to read of the partition where it is most behind.",
			style{unit: count, steps: lagSteps, noValue: "No group has committed offsets", max: new(20000.0)},
			query{"max(streamhouse_consumer_lag" + lagOf + ")", "records"}),
		wide(18, graph("Rebalances", "Generations that groups completed per minute. Some come with each start and stop of a consumer; a steady stream means that members lose their sessions.",
			style{unit: eventsPerMinute, steps: grade(from(5, "orange"), from(20, "red")), noValue: "No group has members"},
			query{perMinute("consumer_group", `streamhouse_consumer_rebalances_total{consumer_group=~"$group"}`), "{{consumer_group}}"})),
		wide(gridWidth, graph("Error rates", "Consume and commit requests that failed per second, by kind. out_of_range asks for what retention deleted, membership comes from members that lost their partitions, data_loss is always an incident.",
			style{unit: opsPerSecond, steps: grade(from(0.1, "orange"), from(1, "red"))},
			query{rate("error_type", "streamhouse_consumer_errors_total"+ofTopicGroup), "{{error_type}}"})),
	)
}
