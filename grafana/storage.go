package grafana

func storage() Dashboard {
	// Attempts are counted when they end, as errors are, so that both are of the same attempts.
	ended := rate("", `streamhouse_s3_latency_seconds_count{operation="PUT", node=~"$node"}`)
	retried := rate("", `streamhouse_s3_errors_total{operation="PUT", error_type="retry", node=~"$node"}`)
	failed := rate("", `streamhouse_s3_errors_total{operation="PUT", error_type="failed", node=~"$node"}`)
	return dashboard("storage", "Storage",
		"Does what is committed reach the object store, how fast, and how well does the store answer.",
		[]Variable{
			topicVariable(),
			variable("partition", "Partitions with a leader; for the panels that show segments.",
				`label_values(streamhouse_segment_writes_total{topic=~"$topic"}, partition)`),
			nodeVariable(),
		},
		graph("Segment writes", "Segments cut per second, whose upload begins.",
			style{unit: opsPerSecond, steps: moving(), noValue: "No partition with a leader"},
			query{rate("topic", "streamhouse_segment_writes_total"+ofPartition), "{{topic}}"}),
		graph("Uploads", "Segments per second that came to be in the object store and in the manifest. It follows the segment writes; where it stays below them, uploads fail.",
			style{unit: opsPerSecond, steps: moving(), noValue: "No partition with a leader"},
			query{rate("topic", "streamhouse_segment_flushes_total"+ofPartition), "{{topic}}"}),
		gauge("Upload success rate", "Share of the PUTs that the object store took, at the first attempt or a later one, of all that came to an end: segments, and beside them checkpoints of the metadata and committed offsets of groups; 100 % while there are none. Below it one was given up, and is begun again later. What a node broke off because it stopped, or led no longer, is not given up.",
			style{unit: ratio, steps: []Step{{Color: "red"}, from(0.95, "orange"), from(0.999, "green")}},
			query{"clamp(1 - " + failed + " / clamp_min(" + ended + " - " + retried + ", 1e-9), 0, 1)", "uploads"}),
		wide(18, graph("PUT latency", "Time of an attempt to upload, failed ones too; 0 while there are none.",
			style{unit: seconds, steps: grade(from(1, "orange"), from(5, "red"))},
			quantiles("streamhouse_s3_latency_seconds", `{operation="PUT", node=~"$node"}`)...)),
		graph("Requests", "Attempts on the object store per second: PUT uploads, GET reads history that no cache has. It is what the store sends the bill for.",
			style{unit: requestsPerSecond, steps: moving()},
			query{rate("operation", `streamhouse_s3_requests_total{operation=~"PUT|GET", node=~"$node"}`), "{{operation}}"}),
		graph("Errors", "Failed attempts on the object store per second. retry: it is tried again, and nobody notices; failed: it was given up.",
			style{unit: opsPerSecond, steps: grade(from(0.1, "orange"), from(1, "red"))},
			query{rate("error_type", "streamhouse_s3_errors_total"+ofNode), "{{error_type}}"}),
	)
}
