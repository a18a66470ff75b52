package lease

// Mutants are all broken rules that an Elector can be given in tests.
var Mutants = []string{
	string(deadlineFromAnswer), string(noStopMargin), string(ignoreSkew), string(firstSight),
	string(deletedIsReleased), string(takeTooEarly), string(releaseFirst), string(extendUnanswered),
}

// SetMutant breaks one rule of e.
func (e *Elector) SetMutant(m string) { e.mutant = mutant(m) }
