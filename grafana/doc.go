// Package grafana defines the dashboards of StreamHouse: what each panel shows, in PromQL, and what it means to an
// operator. The files in dashboards/ are written from it by `make generate`; Grafana reads only those.
//
// The tests hold the files against the definitions, against rules that every panel keeps, and against a real cluster
// with a real Prometheus.
package grafana
