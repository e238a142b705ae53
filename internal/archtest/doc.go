// Package archtest holds the rule of which package may import which. It has
// tests only.
package archtest
