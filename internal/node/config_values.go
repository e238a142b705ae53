package node

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// value parses one setting into a field of a Config and checks its bounds.
type value interface {
	set(s string) error
	check() error
	kind() string   // one word for help
	bounds() string // for people, may be empty
	String() string
}

type nameRule struct {
	pattern *regexp.Regexp
	text    string
}

type nameValue struct {
	p    *string
	rule nameRule
}

func name(p *string, r nameRule) value { return &nameValue{p, r} }

func (v *nameValue) set(s string) error { *v.p = s; return v.check() }
func (v *nameValue) kind() string       { return "name" }
func (v *nameValue) bounds() string     { return v.rule.text }
func (v *nameValue) String() string     { return *v.p }

func (v *nameValue) check() error {
	if !v.rule.pattern.MatchString(*v.p) {
		return fmt.Errorf("%q must match %s", *v.p, v.rule.text)
	}
	return nil
}

type textValue struct {
	p        *string
	word     string
	required bool
}

func text(p *string, word string, required bool) value { return &textValue{p, word, required} }

func (v *textValue) set(s string) error { *v.p = s; return v.check() }
func (v *textValue) kind() string       { return v.word }
func (v *textValue) bounds() string     { return "" }
func (v *textValue) String() string     { return *v.p }

func (v *textValue) check() error {
	if v.required && *v.p == "" {
		return errors.New("must not be empty")
	}
	return nil
}

type addrValue struct{ p *string }

func addr(p *string) value { return &addrValue{p} }

func (v *addrValue) set(s string) error { *v.p = s; return v.check() }
func (v *addrValue) kind() string       { return "host:port" }
func (v *addrValue) bounds() string     { return "" }
func (v *addrValue) String() string     { return *v.p }
func (v *addrValue) check() error       { return checkAddr(*v.p) }

func checkAddr(s string) error {
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Errorf("%q must be HOST:PORT", s)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return fmt.Errorf("%q has the port %q: must be 0 to 65535", s, port)
	}
	return nil
}

type listValue struct{ p *[]string }

func list(p *[]string) value { return &listValue{p} }

func (v *listValue) kind() string   { return "host:port,..." }
func (v *listValue) bounds() string { return "" }
func (v *listValue) String() string { return strings.Join(*v.p, ",") }

func (v *listValue) set(s string) error {
	*v.p = nil
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part != "" {
			*v.p = append(*v.p, part)
		}
	}
	return v.check()
}

func (v *listValue) check() error {
	for _, a := range *v.p {
		if err := checkAddr(a); err != nil {
			return err
		}
	}
	return nil
}

type numberValue struct {
	p        *int
	min, max int
}

func number(p *int, least, most int) value { return &numberValue{p, least, most} }

func (v *numberValue) kind() string   { return "number" }
func (v *numberValue) bounds() string { return fmt.Sprintf("%d to %d", v.min, v.max) }
func (v *numberValue) String() string { return strconv.Itoa(*v.p) }

func (v *numberValue) set(s string) error {
	n, err := strconv.Atoi(s)
	if err != nil {
		return fmt.Errorf("%q must be a number from %s", s, v.bounds())
	}
	*v.p = n
	return v.check()
}

func (v *numberValue) check() error {
	if *v.p < v.min || *v.p > v.max {
		return fmt.Errorf("%d must be %s", *v.p, v.bounds())
	}
	return nil
}

type sizeValue[T int | int64] struct {
	p        *T
	min, max T
}

func size(p *int64, least, most int64) value { return &sizeValue[int64]{p, least, most} }
func intSize(p *int, least, most int) value  { return &sizeValue[int]{p, least, most} }

func (v *sizeValue[T]) kind() string { return "size" }
func (v *sizeValue[T]) bounds() string {
	return formatSize(int64(v.min)) + " to " + formatSize(int64(v.max))
}
func (v *sizeValue[T]) String() string { return formatSize(int64(*v.p)) }

func (v *sizeValue[T]) set(s string) error {
	n, err := parseSize(s)
	if err != nil {
		return err
	}
	if n > int64(v.max) {
		return fmt.Errorf("%s must be %s", s, v.bounds())
	}
	*v.p = T(n)
	return v.check()
}

func (v *sizeValue[T]) check() error {
	if *v.p < v.min || *v.p > v.max {
		return fmt.Errorf("%s must be %s", formatSize(int64(*v.p)), v.bounds())
	}
	return nil
}

type durationValue struct {
	p        *time.Duration
	min, max time.Duration
}

func duration(p *time.Duration, least, most time.Duration) value {
	return &durationValue{p, least, most}
}

func (v *durationValue) kind() string   { return "duration" }
func (v *durationValue) bounds() string { return v.min.String() + " to " + v.max.String() }
func (v *durationValue) String() string { return v.p.String() }

func (v *durationValue) set(s string) error {
	d, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("%q must be a duration such as 500ms, 10s or 1h30m", s)
	}
	*v.p = d
	return v.check()
}

func (v *durationValue) check() error {
	if *v.p < v.min || *v.p > v.max {
		return fmt.Errorf("%s must be %s", *v.p, v.bounds())
	}
	return nil
}

type choiceValue struct {
	p    *string
	some []string
}

func choice(p *string, some ...string) value { return &choiceValue{p, some} }

func (v *choiceValue) set(s string) error { *v.p = s; return v.check() }
func (v *choiceValue) kind() string       { return "word" }
func (v *choiceValue) bounds() string     { return strings.Join(v.some, ", ") }
func (v *choiceValue) String() string     { return *v.p }

func (v *choiceValue) check() error {
	if !slices.Contains(v.some, *v.p) {
		return fmt.Errorf("%q must be one of %s", *v.p, v.bounds())
	}
	return nil
}

type boolValue struct{ p *bool }

func boolean(p *bool) value { return &boolValue{p} }

func (v *boolValue) kind() string   { return "bool" }
func (v *boolValue) bounds() string { return "true, false" }
func (v *boolValue) String() string { return strconv.FormatBool(*v.p) }
func (v *boolValue) check() error   { return nil }

func (v *boolValue) set(s string) error {
	b, err := strconv.ParseBool(s)
	if err != nil {
		return fmt.Errorf("%q must be true or false", s)
	}
	*v.p = b
	return nil
}

// sizeUnits are the units of sizes, longest first.
var sizeUnits = []struct {
	suffix string
	bytes  int64
}{
	{"TiB", tib},
	{"GiB", gib},
	{"MiB", mib},
	{"KiB", kib},
	{"TB", 1e12},
	{"GB", 1e9},
	{"MB", 1e6},
	{"KB", 1e3},
	{"B", 1},
	{"", 1},
}

// parseSize reads a number of bytes, such as 65536, 64KiB, 8GiB or 100MB.
func parseSize(s string) (int64, error) {
	for _, u := range sizeUnits {
		digits, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
		if err != nil || n < 0 || n > (1<<63-1)/u.bytes {
			break
		}
		return n * u.bytes, nil
	}
	return 0, fmt.Errorf("%q must be a size in bytes such as 65536, 64MiB or 8GiB", s)
}

// formatSize writes n as parseSize reads it, in the largest unit that divides it.
func formatSize(n int64) string {
	for _, u := range sizeUnits[:4] {
		if n != 0 && n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.suffix
		}
	}
	return strconv.FormatInt(n, 10) + "B"
}
