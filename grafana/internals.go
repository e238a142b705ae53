package grafana

func internals() Dashboard {
	ofShard := `{shard=~"$shard", node=~"$node"}`
	panels := raftPanels()
	panels = append(panels, shardPanels(ofShard)...)
	panels = append(panels, controllerPanels()...)
	panels = append(panels, processPanels()...)
	return dashboard("internals", "Internals",
		"Raft, shards, the controller and the processes: where to look when the other dashboards show trouble.",
		[]Variable{
			variable("shard", "Shards, each a Raft group.", `label_values(streamhouse_shard_leader, shard)`),
			nodeVariable(),
		}, panels...)
}

func raftPanels() []Panel {
	disk := style{unit: seconds, steps: grade(from(0.1, "orange"), from(0.5, "red"))}
	return []Panel{
		number("Metadata leader", "Nodes that say that they lead the metadata group: 1, and 0 for the moment of an election. Without one no topic can be made, and no shard moves.",
			style{unit: count, steps: []Step{{Color: "red"}, from(1, "green"), from(2, "orange")}},
			query{"sum(streamhouse_metadata_leader)", "leaders"}),
		number("Shards without a leader", "Shards of the cluster that no node says it leads. Their partitions take no writes.",
			style{unit: count, steps: grade(from(1, "red"))},
			query{"max(streamhouse_shards) - (sum(max by (shard) (streamhouse_shard_leader)) or 0 * max(streamhouse_shards))", "shards"}),
		number("Agents alive", "Members that are alive, as the node sees it that sees the fewest.",
			style{unit: count, steps: []Step{{Color: "red"}, from(1, "orange"), from(3, "green")}},
			query{"min(streamhouse_agents_active)", "agents"}),
		number("Topics and partitions", "What there is in the cluster, as its metadata has it.",
			style{unit: count, steps: moving()},
			query{"max(streamhouse_topics_total)", "topics"},
			query{"sum(max by (topic) (streamhouse_partitions_total)) or 0 * max(streamhouse_topics_total)", "partitions"}),
		graph("Raft: commit", "From taking an entry to its commit, on the leaders of the chosen nodes; 0 while nothing is written.", disk,
			quantiles("streamhouse_raft_commit_seconds", ofNode)...),
		graph("Raft: log writes", "99th percentile of the time to write entries to disk, as leader and as follower. It is the disk's fsync: when it climbs, so does the producers' latency.", disk,
			query{quantile("99", "streamhouse_raft_leader_store_seconds", ofNode).expr, "leader"},
			query{quantile("99", "streamhouse_raft_follower_store_seconds", ofNode).expr, "follower"}),
		graph("Raft: time-outs", "Per minute: elections called for want of a heartbeat, and leaders that lost their majority. Some come with each stop of a node; a steady stream means overload or a bad network.",
			style{unit: eventsPerMinute, steps: grade(from(1, "orange"), from(10, "red"))},
			query{perMinute("kind", "streamhouse_raft_timeouts_total"+ofNode), "{{kind}}"}),
		graph("Raft: changes of state", "Replicas per minute that became follower, candidate or leader.",
			style{unit: eventsPerMinute, steps: grade(from(10, "orange"), from(60, "red"))},
			query{perMinute("state", "streamhouse_raft_transitions_total"+ofNode), "{{state}}"}),
		graph("Raft: last contact of leaders", "99th percentile of the time since a leader last heard from each voter. One that is dead is among them: then it climbs until the voter is back or replaced.",
			style{unit: seconds, steps: grade(from(0.25, "orange"), from(0.5, "red"))},
			quantile("99", "streamhouse_raft_leader_last_contact_seconds", ofNode)),
		graph("Raft: term of the metadata group", "It climbs with each election.",
			style{unit: count, steps: moving()},
			query{"max by (node) (streamhouse_metadata_term" + ofNode + ")", "{{node}}"}),
		graph("Raft: metadata not known yet", "Commands that the group committed and the node does not know to be committed. One node alone that climbs is cut off, or too slow.",
			style{unit: count, steps: grade(from(100, "orange"), from(1000, "red"))},
			query{"scalar(max(streamhouse_metadata_commit_index)) - max by (node) (streamhouse_metadata_commit_index" + ofNode + ")", "{{node}}"}),
		graph("Raft: snapshots", "99th percentile of the time that a snapshot takes from beginning to end; 0 while there are none.",
			style{unit: seconds, steps: grade(from(10, "orange"), from(60, "red"))},
			quantile("99", "streamhouse_raft_snapshot_seconds", ofNode)),
	}
}

func shardPanels(ofShard string) []Panel {
	return []Panel{
		graph("Shards: led per node", "Shards that the node leads. The controller spreads them; 0 is right for a node that is drained.",
			style{unit: count, steps: []Step{{Color: "orange"}, from(1, "green")}},
			query{"sum by (node) (streamhouse_shard_leader" + ofShard + ")", "{{node}}"}),
		graph("Shards: replicas behind", "Raft entries that the most advanced replica of the shard has applied and this one has not. Scrapes are not made at one moment, so that some are normal under load; a line that climbs is not.",
			style{unit: count, steps: grade(from(10000, "orange"), from(100000, "red"))},
			query{
				"max by (shard) (streamhouse_shard_applied_index) - on (shard) group_right () max by (shard, node) (streamhouse_shard_applied_index" + ofShard + ")",
				"{{node}} shard {{shard}}",
			}),
		graph("Shards: upload backlog", "Bytes that are committed and not in the object store. It is a saw-tooth up to --upload-bytes; it grows while the store is away, up to where writes are refused.",
			style{unit: bytesUnit, steps: grade(from(256<<20, "orange"), from(1<<30, "red"))},
			query{"max by (shard) (streamhouse_shard_upload_backlog_bytes" + ofShard + ")", "shard {{shard}}"}),
		graph("Shards: local log", "Bytes of all local logs of a node. At --log-max-bytes a shard refuses writes.",
			style{unit: bytesUnit, steps: moving()},
			query{"sum by (node) (streamhouse_shard_log_bytes" + ofShard + ")", "{{node}} shards"},
			query{"sum by (node) (streamhouse_metadata_log_bytes" + ofNode + ")", "{{node}} metadata"}),
		graph("Shards: work of the state machines", "Part of the time that the goroutine works which applies entries, on average over all Raft groups of a node. Near 1 it is what bounds the throughput.",
			style{unit: ratio, steps: grade(from(0.7, "orange"), from(0.9, "red"))},
			query{average("node", "streamhouse_raft_fsm_busy_ratio", ofNode), "{{node}}"}),
		graph("Connections", "Open gRPC connections of clients, by node.",
			style{unit: count, steps: moving()},
			query{"sum by (node) (streamhouse_connections_active" + ofNode + ")", "{{node}}"}),
	}
}

func controllerPanels() []Panel {
	return []Panel{
		graph("Metadata: change that waits", "For how long a change of topics waits to be in a checkpoint in the object store, on the leader of the metadata group. It is a second or two as a rule; a line that climbs means that checkpoints fail, and a cluster recovered from the object store would not have the change.",
			style{unit: seconds, steps: grade(from(30, "orange"), from(60, "red"))},
			query{"max by (node) (streamhouse_metadata_checkpoint_pending_seconds" + ofNode + ")", "{{node}}"}),
		graph("Metadata: checkpoints", "Checkpoints of the metadata per minute that were put into the object store, and that failed and are tried again.",
			style{unit: eventsPerMinute, steps: moving()},
			query{perMinute("", "streamhouse_metadata_checkpoints_total"+ofNode), "written"},
			query{perMinute("", "streamhouse_metadata_checkpoint_errors_total"+ofNode), "failed"}),
		graph("Controller: steps", "Steps per minute that the controller took, and that failed and are tried again. It acts on the leader of the metadata group.",
			style{unit: eventsPerMinute, steps: grade(from(60, "orange"), from(600, "red"))},
			query{perMinute("action", "streamhouse_controller_actions_total"+ofNode), "{{action}}"},
			query{perMinute("action", "streamhouse_controller_failures_total"+ofNode), "{{action}} failed"}),
		graph("Controller: retention", "Per minute: partitions whose log start retention moved, and objects that nothing refers to, condemned and then deleted after --object-grace.",
			style{unit: eventsPerMinute, steps: moving()},
			query{perMinute("", "streamhouse_retention_trims_total"+ofNode), "trims"},
			query{perMinute("", "streamhouse_janitor_objects_dropped_total"+ofNode), "objects condemned"},
			query{perMinute("", "streamhouse_janitor_objects_deleted_total"+ofNode), "objects deleted"}),
	}
}

func processPanels() []Panel {
	return []Panel{
		graph("Process: CPU", "Processors that the node keeps busy.",
			style{unit: count, steps: moving()},
			query{rate("node", "process_cpu_seconds_total"+ofProcess), "{{node}}"}),
		graph("Process: memory", "Resident memory of the process, and what of it is live on the Go heap.",
			style{unit: bytesUnit, steps: moving()},
			query{"sum by (node) (process_resident_memory_bytes" + ofProcess + ")", "{{node}} resident"},
			query{"sum by (node) (go_memstats_heap_alloc_bytes" + ofProcess + ")", "{{node}} heap"}),
		graph("Process: open files", "Part of the file descriptors that the process may open.",
			style{unit: ratio, steps: grade(from(0.7, "orange"), from(0.9, "red"))},
			query{"max by (node) (process_open_fds" + ofProcess + " / clamp_min(process_max_fds" + ofProcess + ", 1))", "{{node}}"}),
		graph("Process: uptime", "Time since the node was started. A line that falls to 0 is a restart.",
			style{unit: seconds, steps: []Step{{Color: "orange"}, from(300, "green")}},
			query{"min by (node) (streamhouse_uptime_seconds" + ofNode + ")", "{{node}}"}),
		graph("Go: goroutines", "Goroutines by node. A line that only climbs is a leak.",
			style{unit: count, steps: grade(from(10000, "orange"), from(100000, "red"))},
			query{"sum by (node) (go_goroutines" + ofProcess + ")", "{{node}}"}),
		graph("Go: garbage collection", "Part of the time that the world is stopped to collect garbage.",
			style{unit: ratio, steps: grade(from(0.01, "orange"), from(0.05, "red"))},
			query{rate("node", "go_gc_duration_seconds_sum"+ofProcess), "{{node}}"}),
	}
}
