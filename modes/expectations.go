package modes

// Expectation is what a mode should do about one feature, as documented; never what was observed.
type Expectation struct {
	Expect string // works, blocked, not-applicable
	Reason string // why, in a sentence that a person who chooses a mode understands
	Source string // RFC section, kernel document or source path, product documentation
}
