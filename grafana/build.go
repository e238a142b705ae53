package grafana

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// tag is on every dashboard, and links them.
const tag = "streamhouse"

// Units, by Grafana's names.
const (
	recordsPerSecond  = "recps"
	bytesPerSecond    = "Bps"
	opsPerSecond      = "ops"
	requestsPerSecond = "reqps"
	eventsPerMinute   = "cpm"
	seconds           = "s"
	bytesUnit         = "bytes"
	count             = "short"
	ratio             = "percentunit"
)

// The grid.
const (
	gridWidth   = 24
	panelHeight = 8
)

var source = Datasource{Type: "prometheus", UID: "${datasource}"}

// All returns the dashboards in the order in which an operator reads them.
func All() []Dashboard {
	return []Dashboard{overview(), producer(), consumer(), storage(), cache(), internals()}
}

// File is the name of the dashboard's file.
func (d *Dashboard) File() string { return d.UID + ".json" }

// Encode returns what is in the dashboard's file.
func (d *Dashboard) Encode() ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // expressions stay readable
	enc.SetIndent("", "  ")
	if err := enc.Encode(d); err != nil {
		return nil, fmt.Errorf("encode dashboard %s: %w", d.UID, err)
	}
	return b.Bytes(), nil
}

// dashboard numbers the panels and lays them out in rows, in their order.
func dashboard(name, title, help string, vars []Variable, panels ...Panel) Dashboard {
	x, y := 0, 0
	for i := range panels {
		p := &panels[i]
		p.ID = i + 1
		if x+p.GridPos.W > gridWidth {
			x, y = 0, y+panelHeight
		}
		p.GridPos.X, p.GridPos.Y, p.GridPos.H = x, y, panelHeight
		x += p.GridPos.W
	}
	return Dashboard{
		UID: tag + "-" + name, Title: "StreamHouse / " + title, Description: help, Tags: []string{tag},
		Editable: true, GraphTooltip: 1, SchemaVersion: 41, Refresh: "10s", Timezone: "browser",
		Time: TimeRange{From: "now-1h", To: "now"},
		Links: []Link{{
			Title: "StreamHouse", Type: "dashboards", Icon: "external link", Tooltip: "The other dashboards of StreamHouse",
			Tags: []string{tag}, AsDropdown: true, IncludeVars: true, KeepTime: true,
		}},
		Annotations: AnnotationList{List: []struct{}{}},
		Templating:  Templating{List: append([]Variable{datasourceVariable()}, vars...)},
		Panels:      panels,
	}
}

func datasourceVariable() Variable {
	return Variable{
		Name: "datasource", Label: "Data source", Description: "The Prometheus that scrapes the nodes.",
		Type: "datasource", Query: "prometheus", Refresh: 1,
	}
}

// variable offers the values of a label, each alone, some together, or all.
func variable(name, help, query string) Variable {
	return Variable{
		Name: name, Label: strings.ToUpper(name[:1]) + name[1:], Description: help, Type: "query", Datasource: &source, Query: query,
		Multi: true, IncludeAll: true, AllValue: ".*", Current: &Choice{Text: []string{"All"}, Value: []string{"$__all"}},
		Refresh: 2, Sort: 7, // again for each time range; natural order
	}
}

// query is one expression and the name of its series.
type query struct{ expr, legend string }

// style is the unit and the colours of a panel.
type style struct {
	unit    string
	steps   []Step
	noValue string // what is shown where there are no series
	max     *float64
}

// from is the colour from a value on.
func from(value float64, color string) Step { return Step{Value: &value, Color: color} }

// grade is green, and the other colours from these values on.
func grade(steps ...Step) []Step { return append([]Step{{Color: "green"}}, steps...) }

// moving tells idle from busy, where neither is bad.
func moving() []Step { return []Step{{Color: "text"}, from(1e-6, "green")} }

func (s style) defaults() FieldDefaults {
	d := FieldDefaults{
		Unit: s.unit, NoValue: s.noValue, Min: new(0.0), Max: s.max,
		Color: Color{Mode: "thresholds"}, Thresholds: Thresholds{Mode: "absolute", Steps: s.steps},
	}
	if d.NoValue == "" {
		d.NoValue = "No data: is a node scraped?"
	}
	if s.unit == ratio {
		d.Max = new(1.0)
	}
	return d
}

func panel(kind, title, help string, width int, s style, queries []query) Panel {
	p := Panel{
		Title: title, Description: help, Type: kind, GridPos: GridPos{W: width}, Datasource: source,
		FieldConfig: FieldConfig{Defaults: s.defaults(), Overrides: []struct{}{}},
	}
	for i, q := range queries {
		p.Targets = append(p.Targets, Target{
			RefID: string(rune('A' + i)), Datasource: source, Expr: q.expr, LegendFormat: q.legend, EditorMode: "code", Range: true,
		})
	}
	return p
}

// graph is lines over time; thresholds are drawn where they tell good from bad.
func graph(title, help string, s style, queries ...query) Panel {
	p := panel("timeseries", title, help, 12, s, queries)
	lines := "off"
	if s.steps[0].Color == "green" {
		lines = "dashed"
	}
	p.FieldConfig.Defaults.Color.Mode = "palette-classic"
	p.FieldConfig.Defaults.Custom = map[string]any{
		"drawStyle": "line", "lineWidth": 1, "fillOpacity": 10, "showPoints": "never", "spanNulls": false,
		"thresholdsStyle": map[string]any{"mode": lines},
	}
	p.Options = map[string]any{
		"legend":  map[string]any{"displayMode": "table", "placement": "bottom", "showLegend": true, "calcs": []string{"lastNotNull", "max"}},
		"tooltip": map[string]any{"mode": "multi", "sort": "desc"},
	}
	return p
}

// latest is what gauges and numbers show of their series.
func latest() map[string]any {
	return map[string]any{"calcs": []string{"lastNotNull"}, "fields": "", "values": false}
}

// gauge is the latest value on a dial.
func gauge(title, help string, s style, queries ...query) Panel {
	p := panel("gauge", title, help, 6, s, queries)
	p.Options = map[string]any{
		"reduceOptions": latest(), "showThresholdLabels": false, "showThresholdMarkers": true, "orientation": "auto",
	}
	return p
}

// number is the latest value in large letters.
func number(title, help string, s style, queries ...query) Panel {
	p := panel("stat", title, help, 6, s, queries)
	p.Options = map[string]any{
		"reduceOptions": latest(), "colorMode": "value", "graphMode": "area", "justifyMode": "auto", "orientation": "auto", "textMode": "auto",
	}
	return p
}

// overRange makes each query give one number for the whole time range.
func overRange(p Panel) Panel {
	for i := range p.Targets {
		p.Targets[i].Instant, p.Targets[i].Range = true, false
	}
	p.Options["graphMode"] = "none"
	return p
}

func wide(width int, p Panel) Panel {
	p.GridPos.W = width
	return p
}
