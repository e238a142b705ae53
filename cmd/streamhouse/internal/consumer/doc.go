// Package consumer reads partitions from an offset on, through whatever node
// answers, and commits how far a group has come.
package consumer
