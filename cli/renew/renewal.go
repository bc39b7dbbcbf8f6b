// SPDX-License-Identifier: Apache-2.0

package renew

import (
	"fmt"
	"slices"
	"strings"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

// renewal is one of an IssuedCertificate: who had which serial number when it was asked for.
type renewal struct {
	before map[string]string // by Pod
}

func newRenewal(status certificatesv1.IssuedCertificateStatus) renewal {
	r := renewal{map[string]string{}}
	for _, replica := range status.Certificates {
		r.before[replica.Pod] = replica.SerialNumber
	}
	return r
}

// waiting says which Pods have not been seen to use a new CA, and why. A Pod that is gone is not waited for; one that
// has come since has a new CA anyhow.
func (r renewal) waiting(status certificatesv1.IssuedCertificateStatus) []string {
	if len(status.Certificates) == 0 {
		return []string{"no agent has reported"}
	}
	var waiting []string
	for _, replica := range status.Certificates {
		old, known := r.before[replica.Pod]
		switch {
		case (!known || replica.SerialNumber != old) && replica.SerialNumber != "" && replica.Confirmed:
			continue
		case replica.Error != "":
			waiting = append(waiting, replica.Pod+": "+replica.Error)
		case known && replica.SerialNumber == old || replica.SerialNumber == "":
			waiting = append(waiting, replica.Pod+": has no new CA yet")
		default:
			waiting = append(waiting, replica.Pod+": istiod was not seen to use the new CA yet")
		}
	}
	return waiting
}

// result says which CA each Pod has now.
func result(context string, certificate *certificatesv1.IssuedCertificate) string {
	var lines []string
	for _, replica := range certificate.Status.Certificates {
		line := fmt.Sprintf("%s: %s/%s: istiod uses CA certificate %s", context, certificate.Namespace, replica.Pod, replica.SerialNumber)
		if replica.NotAfter != nil {
			line += ", valid until " + replica.NotAfter.UTC().Format("2006-01-02 15:04 MST")
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
