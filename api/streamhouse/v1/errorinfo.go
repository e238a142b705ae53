// Package streamhousev1 is the public API: messages and services, and how errors carry their reasons.
package streamhousev1

import (
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
)

// ErrorDomain is the domain of the ErrorInfo that every error of a server carries.
const ErrorDomain = "streamhouse"

const reasonPrefix = "ERROR_REASON_"

// Name is the reason as ErrorInfo carries it, such as "TOPIC_NOT_FOUND".
func (x ErrorReason) Name() string { return strings.TrimPrefix(x.String(), reasonPrefix) }

// FindErrorInfo returns the ErrorInfo of a status, and its reason, which is unspecified where this program does not know it.
// Without one of ErrorDomain it returns nil.
func FindErrorInfo(st *status.Status) (*errdetails.ErrorInfo, ErrorReason) {
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == ErrorDomain {
			return info, ErrorReason(ErrorReason_value[reasonPrefix+info.GetReason()])
		}
	}
	return nil, ErrorReason_ERROR_REASON_UNSPECIFIED
}
