// Package object is the object store: S3, a directory that behaves like it, and memory for tests, behind one small
// interface. Retries, metrics and prefixes are decorators. An object is created once and never replaced.
package object
