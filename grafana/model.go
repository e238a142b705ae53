package grafana

// Dashboard is a dashboard as Grafana reads it, with those fields that are used here.
type Dashboard struct {
	UID           string         `json:"uid"`
	Title         string         `json:"title"`
	Description   string         `json:"description"`
	Tags          []string       `json:"tags"`
	Editable      bool           `json:"editable"`
	GraphTooltip  int            `json:"graphTooltip"`
	SchemaVersion int            `json:"schemaVersion"`
	Refresh       string         `json:"refresh"`
	Time          TimeRange      `json:"time"`
	Timezone      string         `json:"timezone"`
	Links         []Link         `json:"links"`
	Annotations   AnnotationList `json:"annotations"`
	Templating    Templating     `json:"templating"`
	Panels        []Panel        `json:"panels"`
}

// TimeRange is the time that is shown at first.
type TimeRange struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// Link leads to the dashboards with the same tags.
type Link struct {
	Title       string   `json:"title"`
	Type        string   `json:"type"`
	Icon        string   `json:"icon"`
	Tooltip     string   `json:"tooltip"`
	Tags        []string `json:"tags"`
	AsDropdown  bool     `json:"asDropdown"`
	TargetBlank bool     `json:"targetBlank"`
	IncludeVars bool     `json:"includeVars"`
	KeepTime    bool     `json:"keepTime"`
}

// AnnotationList is empty, but has to be there.
type AnnotationList struct {
	List []struct{} `json:"list"`
}

// Templating has the variables.
type Templating struct {
	List []Variable `json:"list"`
}

// Variable is a drop-down list at the top of a dashboard.
type Variable struct {
	Name        string      `json:"name"`
	Label       string      `json:"label"`
	Description string      `json:"description"`
	Type        string      `json:"type"`
	Datasource  *Datasource `json:"datasource,omitempty"`
	Query       string      `json:"query"`
	Multi       bool        `json:"multi,omitempty"`
	IncludeAll  bool        `json:"includeAll,omitempty"`
	AllValue    string      `json:"allValue,omitempty"`
	Current     *Choice     `json:"current,omitempty"`
	Refresh     int         `json:"refresh"`
	Sort        int         `json:"sort,omitempty"`
}

// Choice is the value that a variable has at first.
type Choice struct {
	Text  []string `json:"text"`
	Value []string `json:"value"`
}

// Datasource names a data source, here always the one chosen in the variable "datasource".
type Datasource struct {
	Type string `json:"type"`
	UID  string `json:"uid"`
}

// Panel is one graph, number or gauge.
type Panel struct {
	ID          int            `json:"id"`
	Title       string         `json:"title"`
	Description string         `json:"description"`
	Type        string         `json:"type"`
	GridPos     GridPos        `json:"gridPos"`
	Datasource  Datasource     `json:"datasource"`
	Targets     []Target       `json:"targets"`
	FieldConfig FieldConfig    `json:"fieldConfig"`
	Options     map[string]any `json:"options"`
}

// GridPos places a panel on a grid that is 24 wide.
type GridPos struct {
	X int `json:"x"`
	Y int `json:"y"`
	W int `json:"w"`
	H int `json:"h"`
}

// Target is a query of a panel.
type Target struct {
	RefID        string     `json:"refId"`
	Datasource   Datasource `json:"datasource"`
	Expr         string     `json:"expr"`
	LegendFormat string     `json:"legendFormat"`
	EditorMode   string     `json:"editorMode"`
	Instant      bool       `json:"instant,omitempty"`
	Range        bool       `json:"range,omitempty"`
}

// FieldConfig says how values look.
type FieldConfig struct {
	Defaults  FieldDefaults `json:"defaults"`
	Overrides []struct{}    `json:"overrides"`
}

// FieldDefaults are the unit, the bounds and the colours of a panel's values.
type FieldDefaults struct {
	Unit       string         `json:"unit"`
	NoValue    string         `json:"noValue"`
	Min        *float64       `json:"min,omitempty"`
	Max        *float64       `json:"max,omitempty"`
	Decimals   *int           `json:"decimals,omitempty"`
	Color      Color          `json:"color"`
	Thresholds Thresholds     `json:"thresholds"`
	Custom     map[string]any `json:"custom,omitempty"`
}

// Color says where colours come from.
type Color struct {
	Mode string `json:"mode"`
}

// Thresholds are the values from which on a panel has a colour.
type Thresholds struct {
	Mode  string `json:"mode"`
	Steps []Step `json:"steps"`
}

// Step is a threshold. The first has no value: its colour is that of all that is lower than the second.
type Step struct {
	Value *float64 `json:"value"`
	Color string   `json:"color"`
}
