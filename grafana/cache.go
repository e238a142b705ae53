package grafana

func cache() Dashboard {
	hits, misses := "streamhouse_cache_hits_total"+ofNode, "streamhouse_cache_misses_total"+ofNode
	increase := func(selector, window string) string { return "sum(increase(" + selector + "[" + window + "]))" }
	return dashboard("cache", "Cache",
		"Does memory serve the reads of history, and is it large enough.",
		[]Variable{nodeVariable()},
		gauge("Hit rate", "Share of block look-ups that did not have to wait for the object store; 100 % while there are none.",
			style{unit: ratio, steps: []Step{{Color: "red"}, from(0.5, "orange"), from(0.7, "green")}},
			query{"1 - " + rate("", misses) + " / clamp_min(" + rate("", hits) + " + " + rate("", misses) + ", 1e-9)", "look-ups"}),
		wide(18, graph("Size", "Memory of cached blocks, by node. It grows to --cache-bytes and stays there.",
			style{unit: bytesUnit, steps: moving()},
			query{"sum by (node) (streamhouse_cache_size_bytes" + ofNode + ")", "{{node}}"})),
		graph("Hits and misses", "Block look-ups of consumers per second. Blocks that are fetched ahead count when they are read, as hits.",
			style{unit: opsPerSecond, steps: moving()},
			query{rate("", hits), "hits"}, query{rate("", misses), "misses"}),
		graph("Operations per hour", "Block look-ups in the hour before.",
			style{unit: count, steps: moving()},
			query{increase(hits, "1h"), "hits"}, query{increase(misses, "1h"), "misses"}),
		gauge("Utilisation", "Cached bytes of what --cache-bytes allows. A full cache is as it should be; a full one with a low hit rate is too small.",
			style{unit: ratio, steps: []Step{{Color: "blue"}, from(0.5, "green"), from(0.99, "yellow")}},
			query{"sum(streamhouse_cache_size_bytes" + ofNode + ") / clamp_min(sum(streamhouse_cache_capacity_bytes" + ofNode + "), 1)", "used"}),
		wide(18, overRange(number("S3 GETs avoided", "Block look-ups in the chosen time range minus the GETs that were made in it: what the object store would have been asked for besides, were there no cache. GETs that read ahead, or restore a replica, count against it.",
			style{unit: count, steps: moving()},
			query{"clamp_min(" + increase(hits, "$__range") + " + " + increase(misses, "$__range") + " - " +
				increase(`streamhouse_s3_requests_total{operation="GET", node=~"$node"}`, "$__range") + ", 0)", "avoided"},
			query{increase(`streamhouse_s3_requests_total{operation="GET", node=~"$node"}`, "$__range"), "made"}))),
	)
}
