//go:build programs

// Package etcd names the program that tools/kubernetes.py builds from this module.
package etcd

import _ "go.etcd.io/etcd/server/v3"
