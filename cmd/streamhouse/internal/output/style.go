package output

import (
	"os"
	"regexp"
	"unicode/utf8"
)

// Style colours text for a terminal. The zero value leaves it as it is.
type Style struct{ colours bool }

// StyleFor returns the style for a file: colours only on a terminal that has them, and unless $NO_COLOR is set.
func StyleFor(file any) Style {
	return Style{colours: IsTerminal(file) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
}

// Coloured returns a style that always colours.
func Coloured() Style { return Style{colours: true} }

// Bold is for titles.
func (s Style) Bold(text string) string { return s.paint("1", text) }

// Good is for what is as it should be.
func (s Style) Good(text string) string { return s.paint("32", text) }

// Warn is for what passes, or is somebody's will.
func (s Style) Warn(text string) string { return s.paint("33", text) }

// Bad is for what does not work.
func (s Style) Bad(text string) string { return s.paint("31", text) }

func (s Style) paint(code, text string) string {
	if !s.colours || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

var painting = regexp.MustCompile("\x1b\\[[0-9;]*m")

// width returns how many columns a text takes.
func width(text string) int { return utf8.RuneCountInString(painting.ReplaceAllString(text, "")) }
