//go:build programs

// Package wireguard names wireguard-go, its newest release, as deploy/Containerfile builds it.
package wireguard

import _ "golang.zx2c4.com/wireguard"
